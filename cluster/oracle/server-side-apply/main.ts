import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Writes `src/server/apply/recorded-cases-generated.json`: random sequences of applies and updates with what
 * Kubernetes' own field manager (k8s.io/apimachinery, by way of `main.go`) makes of them. Needs Go
 * and its module proxy: `npm run oracle:apply`.
 */
const CASES = 24;
const STEPS = 6;

let state = 1;
/** A linear congruential generator: the same cases every time. */
function draw(below: number): number {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
  return Math.floor((state / 2 ** 32) * below);
}

function pick<T>(...options: readonly T[]): T {
  return options[draw(options.length)] as T;
}

function some<T>(options: readonly T[]): T[] {
  return options.filter(() => draw(2) === 0);
}

/** Not empty: what is left of an emptied list (null there, empty here) is another story. */
function atLeastOne<T>(options: readonly T[]): T[] {
  const chosen = some(options);
  return chosen.length > 0 ? chosen : [options[0] as T];
}

function optional(name: string, make: () => unknown): Record<string, unknown> {
  return draw(2) === 0 ? {} : { [name]: make() };
}

function container(name: string): unknown {
  return {
    name,
    image: pick('one', 'two'),
    ...optional('args', () => some(['-x', '-y', '-z'])),
    ...optional('env', () =>
      atLeastOne(['A', 'B']).map((n) => ({ name: n, value: pick('1', '2') })),
    ),
    ...optional('ports', () =>
      atLeastOne([80, 81]).map((containerPort) => ({ containerPort, protocol: 'TCP' })),
    ),
    ...optional('resources', () => ({
      limits: Object.fromEntries(atLeastOne(['cpu', 'memory']).map((k) => [k, pick('1', '2')])),
    })),
  };
}

function deployment(): unknown {
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: {
      name: 'd',
      namespace: 'default',
      ...optional('labels', () =>
        Object.fromEntries(atLeastOne(['l', 'm']).map((k) => [k, pick('1', '2')])),
      ),
      ...optional('finalizers', () => atLeastOne(['x.org/a', 'x.org/b'])),
    },
    spec: {
      selector: { matchLabels: { app: 'd' } },
      ...optional('replicas', () => pick(1, 2, 3)),
      ...optional('strategy', () => pick({ type: 'Recreate' }, { type: 'RollingUpdate' })),
      template: {
        metadata: { labels: { app: 'd', ...optional('more', () => pick('1', '2')) } },
        spec: {
          containers: atLeastOne(['a', 'b', 'c']).map(container),
          ...optional('nodeSelector', () => ({ zone: pick('1', '2') })),
          ...optional('volumes', () =>
            atLeastOne(['v', 'w']).map((name) => ({ name, emptyDir: {} })),
          ),
        },
      },
    },
  };
}

function custom(): unknown {
  return {
    apiVersion: 'example.org/v1',
    kind: 'Thing',
    metadata: { name: 't', namespace: 'default' },
    spec: {
      ...optional('size', () => draw(3)),
      ...optional('list', () => some(['a', 'b'])),
      ...optional('inner', () => ({
        ...optional('x', () => draw(2)),
        ...optional('y', () => draw(2)),
        ...optional('deep', () =>
          Object.fromEntries(atLeastOne(['p', 'q']).map((k) => [k, draw(2)])),
        ),
      })),
    },
  };
}

function steps(make: () => unknown): unknown[] {
  return Array.from({ length: STEPS }, (_, i) => ({
    op: draw(3) === 0 ? 'update' : 'apply',
    manager: pick('ann', 'bob', 'eve'),
    force: i > 0 && draw(4) === 0,
    object: make(),
  }));
}

const cases = Array.from({ length: CASES }, (_, i) =>
  i % 3 === 2
    ? { apiVersion: 'example.org/v1', kind: 'Thing', custom: true, steps: steps(custom) }
    : { apiVersion: 'apps/v1', kind: 'Deployment', steps: steps(deployment) },
);
const folder = import.meta.dirname;
const out = execFileSync('go', ['run', '.'], {
  cwd: folder,
  input: JSON.stringify(cases),
  stdio: ['pipe', 'pipe', 'inherit'],
  maxBuffer: 64 * 1024 * 1024,
});
writeFileSync(join(folder, '../../src/server/apply/recorded-cases-generated.json'), out);
