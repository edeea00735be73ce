import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { digestOf, seededRandom } from '@shoal/core';
import { generateDigits } from '@shoal/datasets';
import { slice, toImageLine } from '@shoal/lib';
import { dense, flatten, sequential } from '@shoal/training';
import { afterAll, expect, test } from 'vitest';

/**
 * Real processes, killed with -9 at any moment, started again as their supervisor would: the
 * federation ends with the model of an undisturbed run, bit for bit.
 */
const PARTICIPANTS = 3;
const ROUNDS = 7;
const root = mkdtempSync(join(tmpdir(), 'shoal-federated-kill-'));
const started = new Set<ChildProcess>();
afterAll(() => {
  for (const child of started) child.kill('SIGKILL');
  rmSync(root, { recursive: true, force: true });
});

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}

const digits = generateDigits({ count: 240, seed: 3 });
for (let k = 0; k < PARTICIPANTS; k++) {
  const part = slice(digits, k * 80, (k + 1) * 80);
  const lines = Array.from({ length: part.size }, (_, i) =>
    toImageLine(part.inputs.subarray(i * 784, (i + 1) * 784), Number(part.labels[i])),
  );
  writeFileSync(join(root, `p${k}.jsonl`), `${lines.join('\n')}\n`);
}

interface Federation {
  readonly dir: string;
  readonly port: number;
  readonly options: { readonly strategy?: object };
  /** The last round the aggregator has ended. */
  round: number;
}

async function federation(name: string, options: Federation['options']): Promise<Federation> {
  const dir = join(root, name);
  mkdirSync(dir);
  const layers = [flatten(), dense(10)];
  const model = sequential({ input: [1, 28, 28], layers, random: seededRandom(1) });
  writeFileSync(join(dir, 'model.onnx'), model);
  writeFileSync(join(dir, 'first.onnx'), model);
  return { dir, port: await freePort(), options, round: 0 };
}

/** Starts a worker as a pod would; resolves with its exit code, or the signal that ended it. */
function worker(
  kind: string,
  f: Federation,
  env: Record<string, string>,
): { child: ChildProcess; ended: Promise<number | string> } {
  const child = spawn(process.execPath, ['workers/src/main.ts', kind], {
    cwd: join(import.meta.dirname, '..'),
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      PATH: process.env['PATH'],
      JOB_NAME: 'kill',
      MODEL_URL: join(f.dir, 'model.onnx'),
      PRETRAINED_MODEL_URL: join(f.dir, 'first.onnx'),
      FEDERATED_TOKEN: 'secret',
      PARTICIPANTS_COUNT: String(PARTICIPANTS),
      AGG_BIND_HOST: '127.0.0.1',
      AGG_BIND_PORT: String(f.port),
      AGG_PORT: String(f.port),
      FEDERATED_OPTIONS: JSON.stringify({ rounds: ROUNDS, learningRate: 0.05, ...f.options }),
      FEDERATED_STRATEGY: JSON.stringify(f.options.strategy ?? { name: 'FedAvg' }),
      ...env,
    },
  });
  started.add(child);
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (text: Buffer) => {
      for (const [, round] of text.toString().matchAll(/"round":(\d+).*"round done"/g))
        f.round = Math.max(f.round, Number(round));
    });
  const ended = new Promise<number | string>((resolve) =>
    child.once('exit', (code, signal) => {
      started.delete(child);
      resolve(code ?? signal ?? 'unknown');
    }),
  );
  return { child, ended };
}

interface Slot {
  readonly kind: string;
  readonly env: Record<string, string>;
  current: ChildProcess | undefined;
}

/** Keeps a worker running until it ends well, however often it is killed. */
async function keep(slot: Slot, f: Federation): Promise<void> {
  for (;;) {
    const { child, ended } = worker(slot.kind, f, slot.env);
    slot.current = child;
    if ((await ended) === 0) return;
  }
}

async function run(
  name: string,
  options: Federation['options'],
  disturb: (slots: readonly Slot[], f: Federation, over: () => boolean) => Promise<void>,
): Promise<string> {
  const f = await federation(name, options);
  const slots: Slot[] = [
    { kind: 'aggregate', env: {}, current: undefined },
    ...Array.from({ length: PARTICIPANTS }, (_, k) => ({
      kind: 'participate',
      env: { WORKER_NAME: `p${k}`, TRAIN_DATASET_URL: join(root, `p${k}.jsonl`) },
      current: undefined,
    })),
  ];
  let over = false;
  const all = Promise.all(slots.map((slot) => keep(slot, f))).then(() => {
    over = true;
  });
  await Promise.all([all, disturb(slots, f, () => over)]);
  return digestOf(readFileSync(join(f.dir, 'model.onnx')));
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** What participants carry from round to round must survive too. */
const CASES: readonly (readonly [name: string, options: Federation['options']])[] = [
  ['FedAvg', {}],
  // Steps of SCAFFOLD follow control variates, and top-k sends later what it left out before.
  [
    'SCAFFOLD, top-k',
    { strategy: { name: 'SCAFFOLD' }, compression: { name: 'top-k', share: 0.2 } } as object,
  ],
];

test.each(CASES)(
  'killed with -9 in every round, aggregator and participants end with the same model: %s',
  { timeout: 180_000 },
  async (name, given) => {
    const options = { localEpochs: 60, ...given };
    const wanted = await run(`${name} calm`, options, () => Promise.resolve());
    const random = seededRandom(11);
    const killedIn = new Set<number>();
    const disturbed = await run(`${name} storm`, options, async (slots, f, over) => {
      for (let kill = 0; kill < 6; kill++) {
        while (f.round < kill && !over()) await pause(2);
        await pause(random.int(120));
        if (slots[kill % slots.length]?.current?.kill('SIGKILL')) killedIn.add(f.round);
      }
    });
    expect(killedIn.size).toBeGreaterThan(3);
    expect(disturbed).toBe(wanted);
  },
);

test('what a participant kept of a federation is not taken for what it has of the next', async () => {
  const f = await federation('instances', {});
  const kept = (): string[] =>
    readdirSync(f.dir).filter((n) => n.startsWith('.participant-kill-p0'));
  for (const [i, instance] of ['a', 'a', 'b'].entries()) {
    const { child, ended } = worker('participate', f, {
      WORKER_NAME: 'p0',
      TRAIN_DATASET_URL: join(root, 'p0.jsonl'),
      FEDERATED_INSTANCE: instance,
    });
    for (let waits = 0; kept().length < (i < 2 ? 1 : 2) && waits < 500; waits++) await pause(20);
    child.kill('SIGKILL');
    await ended;
  }
  expect(kept()).toHaveLength(2);
});
