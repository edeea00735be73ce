import { spawnSync } from 'node:child_process';
import { closeSync, cpSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { digestOf, type Logger, messageOf, silentLogger } from '@shoal/core';
import {
  AggregationServer,
  type FederatedModel,
  nodePlatform,
  Participant,
  socketTransport,
} from '@shoal/lib';
import type { FullDiskReport } from './full-disk.ts';

/** Runs in a mount namespace of its own, with a small disk at the folder that is given. */
const [disk = ''] = process.argv.slice(2);
const SIZE = 1_000_000;
const NAMES = ['p1', 'p2', 'p3'];
const layout = [{ name: 'w', shape: [SIZE] }];

const reasons: string[] = [];
const logger: Logger = {
  ...silentLogger,
  warn: (_message, fields) => reasons.push(String(fields?.['reason'])),
};

function modelOf(k: number): FederatedModel {
  return {
    layout,
    size: SIZE,
    samples: 10 * k,
    initial: () => new Float32Array(SIZE),
    train: (vector, { round, evaluateOnly }) =>
      Promise.resolve({
        delta: evaluateOnly
          ? new Float32Array()
          : vector.map((v, i) => Math.sin(i * k + round) - v / 8),
        samples: 10 * k,
        metrics: {},
      }),
    close: () => Promise.resolve(),
  };
}

interface Run {
  readonly server: AggregationServer;
  readonly stop: () => Promise<void>;
}

/** A federation over a folder, and its participants. */
async function run(dir: string, onRound: (round: number) => void): Promise<Run> {
  const server = new AggregationServer({
    job: 'full',
    rounds: 4,
    participants: NAMES.length,
    quorum: 2,
    deadlineMs: 2_000,
    dir,
    initial: new Float32Array(SIZE),
    layout,
    logger,
    onRound: ({ round }) => onRound(round),
  });
  const address = await server.start();
  const stopping = new AbortController();
  const ended = NAMES.map((participant, i) =>
    new Participant(
      { transport: socketTransport(address), platform: nodePlatform, job: 'full', participant },
      modelOf(i + 1),
    )
      .run(stopping.signal)
      .catch(() => undefined),
  );
  return {
    server,
    stop: async () => {
      stopping.abort(new Error('over'));
      await server.close();
      await Promise.all(ended);
    },
  };
}

const digest = ({ buffer, byteOffset, byteLength }: Float32Array): string =>
  digestOf(new Uint8Array(buffer, byteOffset, byteLength));

/** Writes until no such piece fits any more. */
function fillWith(file: number, bytes: Uint8Array): void {
  try {
    for (;;) writeSync(file, bytes);
  } catch {
    // It is full.
  }
}

/** Takes every byte that is left. */
function fill(path: string): void {
  const file = openSync(path, 'w');
  try {
    for (const size of [65_536, 4_096, 1]) fillWith(file, new Uint8Array(size));
  } finally {
    closeSync(file);
  }
}

const dir = join(disk, 'rounds');
const filler = join(disk, 'filler');
// The first round ends with the two updates that fit; then there is room, then no byte is left.
const tight = await run(dir, (round) => {
  if (round === 1) spawnSync('mount', ['-o', 'remount,size=200m', disk]);
  if (round === 2) cpSync(dir, join(disk, 'undisturbed'), { recursive: true });
  if (round === 2) fill(filler);
});
const broken = await tight.server.done.then(
  () => 'nothing',
  (error: unknown) => messageOf(error),
);
await tight.stop();
rmSync(filler);
const after = await run(dir, () => undefined);
const { model, history } = await after.server.done;
await after.stop();
const calm = await run(join(disk, 'undisturbed'), () => undefined);
const wanted = await calm.server.done;
await calm.stop();
const report: FullDiskReport = {
  counts: history.map((h) => h.participants),
  reasons: [...new Set(reasons)],
  broken,
  same: digest(model) === digest(wanted.model),
};
console.log(JSON.stringify(report));
