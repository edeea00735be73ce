import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

/** `npm run check`: everything that can be said about the code without running the whole system. */
const STEPS: readonly (readonly [name: string, command: string, args: readonly string[]])[] = [
  ['format', 'biome', ['check', '.']],
  ['lint and import directions', 'oxlint', ['--type-aware', '--deny-warnings']],
  ['types', 'tsc', ['-b']],
  ['dead code', 'knip', ['--no-config-hints']],
  ['generated files', 'node', ['scripts/generate.ts', '--check']],
  ['unit tests', 'vitest', ['run', '--project', 'unit', '--silent=passed-only']],
];

const root = join(import.meta.dirname, '..');
const failed: string[] = [];
for (const [name, command, args] of STEPS) {
  const startedAt = performance.now();
  const { status } = spawnSync(join(root, 'node_modules/.bin', command), args, {
    cwd: root,
    stdio: 'inherit',
  });
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
  console.log(`${status === 0 ? 'ok  ' : 'FAIL'} ${name} (${seconds} s)`);
  if (status !== 0) failed.push(name);
}
if (failed.length > 0) {
  console.error(`check failed: ${failed.join(', ')}`);
  process.exit(1);
}
