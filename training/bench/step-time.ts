import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { seededRandom } from '@shoal/core';
import { findTorch } from '../oracle/torch.ts';
import {
  type Batch,
  conv2d,
  dense,
  flatten,
  maxPool2d,
  relu,
  sequential,
  Trainer,
} from '../src/index.ts';
import { jaxJsStepMs } from './jax-js.ts';
import { tfjsStepMs } from './tfjs.ts';

/**
 * `npm run bench:training`: time of one training step, batch 32, two threads, plain SGD, from the
 * general engine. PyTorch (eager, same models, same threads) runs between our own runs when Python
 * has it; then jax-js, and tfjs when it is installed. Writes .cache/bench/training.json.
 */
interface Times {
  readonly minMs: number;
  readonly medianMs: number;
  readonly steps: number;
}

const BATCH = 32;
const THREADS = 2;
const ROUND_MS = 2_000;
const ROUNDS = 3;
const SHAPES: Readonly<Record<string, readonly number[]>> = {
  mlp: [784],
  cnn: [1, 28, 28],
  'mobilenet-v2-0.35': [3, 96, 96],
  transformer: [64],
  lstm: [20, 32],
};
const TARGETS: Readonly<Record<string, number>> = {
  mlp: 0.5,
  cnn: 0.8,
  'mobilenet-v2-0.35': 1,
  transformer: 1,
  lstm: 1,
};

function timesOf(samples: readonly number[]): Times {
  const sorted = samples.toSorted((a, b) => a - b);
  return {
    minMs: sorted[0] ?? Number.NaN,
    medianMs: sorted[sorted.length >> 1] ?? Number.NaN,
    steps: samples.length,
  };
}

/** The two models that need no exporter, as in `torch_steps.py`. */
function ownModel(name: string): Uint8Array | undefined {
  const random = seededRandom(1);
  if (name === 'mlp') {
    const layers = [dense(256), relu(), dense(128), relu(), dense(10)];
    return sequential({ input: [784], random, layers });
  }
  if (name !== 'cnn') return undefined;
  const features = [conv2d(16, 3), relu(), maxPool2d(2), conv2d(32, 3), relu(), maxPool2d(2)];
  return sequential({ input: [1, 28, 28], random, layers: [...features, flatten(), dense(10)] });
}

function batchFor(name: string): Batch {
  const random = seededRandom(2);
  const length = BATCH * (SHAPES[name] ?? []).reduce((n, d) => n * d, 1);
  const inputs =
    name === 'transformer'
      ? BigInt64Array.from({ length }, () => BigInt(random.int(1000)))
      : Float32Array.from({ length }, () => random.normal());
  const targets = BigInt64Array.from({ length: BATCH }, (_, i) => BigInt(i % 5));
  return { inputs, targets, size: BATCH };
}

async function engineRound(trainer: Trainer, batch: Batch): Promise<number[]> {
  const samples: number[] = [];
  for (let i = 0; i < 5; i++) await trainer.step(batch);
  for (const until = performance.now() + ROUND_MS; performance.now() < until; ) {
    const startedAt = performance.now();
    await trainer.step(batch);
    samples.push(performance.now() - startedAt);
  }
  return samples;
}

const script = join(import.meta.dirname, '../oracle/torch_steps.py');

function torchRound(python: string, name: string): Times {
  const args = [script, 'time', name, String(ROUND_MS / 1000), String(THREADS)];
  const { stdout, stderr } = spawnSync(python, args, { encoding: 'utf8' });
  try {
    return JSON.parse(stdout) as Times;
  } catch {
    throw new Error(`torch_steps.py failed: ${stderr.slice(-500)}`);
  }
}

interface Result {
  readonly name: string;
  readonly engine: Times;
  readonly torch?: Times;
  readonly ratio?: number;
  readonly target?: number;
}

async function measure(
  name: string,
  dir: string,
  python: string | undefined,
): Promise<Result | undefined> {
  const model = ownModel(name) ?? (python === undefined ? undefined : join(dir, `${name}.onnx`));
  if (model === undefined) return undefined;
  const trainer = await Trainer.create({
    model,
    loss: 'softmax-cross-entropy',
    optimizer: { name: 'sgd', learningRate: 0.01 },
    threads: THREADS,
  });
  const batch = batchFor(name);
  const samples: number[] = [];
  const rounds: Times[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    samples.push(...(await engineRound(trainer, batch)));
    if (python !== undefined) rounds.push(torchRound(python, name));
  }
  await trainer.release();
  const engine = timesOf(samples);
  if (rounds.length === 0) return { name, engine };
  const minMs = Math.min(...rounds.map((r) => r.minMs));
  const medianMs = timesOf(rounds.map((r) => r.medianMs)).medianMs;
  const torch = { minMs, medianMs, steps: rounds.reduce((n, r) => n + r.steps, 0) };
  return { name, engine, torch, ratio: engine.minMs / minMs, target: TARGETS[name] ?? 1 };
}

const python = findTorch({ install: false });
const dir = mkdtempSync(join(tmpdir(), 'shoal-bench-'));
const results: Result[] = [];
const ms = (t: Times | undefined): string =>
  t ? `${t.minMs.toFixed(2)} / ${t.medianMs.toFixed(2)} ms` : '–';
try {
  if (python === undefined)
    console.log('PyTorch is not here (SHOAL_PYTHON): only the engine, only mlp and cnn');
  else spawnSync(python, [script, 'export', dir], { stdio: 'ignore' });
  for (const name of Object.keys(SHAPES)) {
    const result = await measure(name, dir, python);
    if (!result) continue;
    results.push(result);
    const ratio =
      result.ratio === undefined
        ? ''
        : `  ratio of minima ${result.ratio.toFixed(2)} (target ≤ ${result.target}), of medians ${(result.engine.medianMs / (result.torch?.medianMs ?? 1)).toFixed(2)}`;
    console.log(
      `${name.padEnd(18)} engine ${ms(result.engine)}  torch ${ms(result.torch)}${ratio}  (min / median)`,
    );
  }
} finally {
  rmSync(dir, { recursive: true, force: true });
}
const tfjs = await tfjsStepMs();
const cnn = results.find((r) => r.name === 'cnn');
for (const [backend, step] of Object.entries(tfjs)) {
  const own = step.model === 'cnn' ? cnn : results.find((r) => r.name === 'mlp');
  const times = own ? ` = ${Math.round(step.ms / own.engine.medianMs)} × the engine` : '';
  console.log(`tfjs ${backend}, ${step.model}: ${step.ms.toFixed(1)} ms a step${times}`);
}
const mlp = results.find((r) => r.name === 'mlp');
const jaxTimes = (await jaxJsStepMs()).toSorted((a, b) => a - b);
const jaxJs = { minMs: jaxTimes[0] ?? Number.NaN, medianMs: jaxTimes[jaxTimes.length >> 1] ?? 0 };
if (mlp)
  console.log(
    `jax-js wasm, mlp: ${jaxJs.minMs.toFixed(2)} / ${jaxJs.medianMs.toFixed(2)} ms a step = ${(jaxJs.minMs / mlp.engine.minMs).toFixed(1)} × the engine (minima)`,
  );
const report = {
  cores: availableParallelism(),
  batch: BATCH,
  threads: THREADS,
  results,
  tfjs,
  jaxJs,
};
const out = join(import.meta.dirname, '../../.cache/bench');
mkdirSync(out, { recursive: true });
writeFileSync(join(out, 'training.json'), JSON.stringify(report, null, 2));
console.log(JSON.stringify(report));
