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
import { type Memory, memoryOfTraining } from './memory.ts';
import { tfjsStepMs } from './tfjs.ts';

/**
 * `npm run bench:training`: time of one training step, batch 32, two threads, plain SGD, from the
 * general engine; what a step costs beside computing; memory of large models. PyTorch (eager, same models, same threads) runs between our own runs when Python
 * has it; then jax-js, and tfjs when it is installed. Writes .cache/bench/training.json.
 */
interface Times {
  readonly minMs: number;
  readonly medianMs: number;
  readonly steps: number;
}

const BATCH = 32;
const THREADS = 2;
const ROUND_MS = 3_000;
const ROUNDS = 4;
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

/** Of `Trainer.train`: each sample is the mean of some steps, as many as pass in about 20 ms, at most 32. */
async function engineRound(trainer: Trainer, batch: Batch): Promise<number[]> {
  const samples: number[] = [];
  let steps = 1;
  for (const until = performance.now() + ROUND_MS; performance.now() < until; ) {
    const startedAt = performance.now();
    for await (const _ of trainer.train(Array.from({ length: steps }, () => batch)));
    const took = performance.now() - startedAt;
    samples.push(took / steps);
    steps = Math.max(1, Math.min(32, Math.round((20 / took) * steps)));
  }
  return samples.slice(3); // the first compile and warm up
}

/** Of `Trainer.step`, one at a time. */
async function singleSteps(trainer: Trainer, batch: Batch): Promise<number[]> {
  const samples: number[] = [];
  for (let i = 0; i < 5; i++) await trainer.step(batch);
  for (const until = performance.now() + ROUND_MS; performance.now() < until; ) {
    const startedAt = performance.now();
    await trainer.step(batch);
    samples.push(performance.now() - startedAt);
  }
  return samples;
}

/**
 * What JavaScript and the hand-over to the runtime cost: a step of a model of four parameters, in which there is next to
 * nothing to compute.
 */
async function overhead(): Promise<{ single: Times; grouped: Times }> {
  const model = sequential({ input: [1], layers: [dense(2)], random: seededRandom(1) });
  const trainer = await Trainer.create({
    model,
    loss: 'softmax-cross-entropy',
    optimizer: { name: 'sgd', learningRate: 0.01 },
    threads: THREADS,
  });
  const batch = { inputs: Float32Array.of(1), targets: BigInt64Array.of(1n), size: 1 };
  const single = timesOf(await singleSteps(trainer, batch));
  const grouped = timesOf(await engineRound(trainer, batch));
  await trainer.release();
  return { single, grouped };
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
  /** One `Trainer.step` at a time. */
  readonly single: Times;
  readonly torch?: Times;
  readonly ratio?: number;
  readonly target?: number;
}

interface Report {
  readonly cores: number;
  readonly batch: number;
  readonly threads: number;
  readonly results: readonly Result[];
  overhead?: Awaited<ReturnType<typeof overhead>>;
  memory?: readonly Memory[];
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
  const singles: number[] = [];
  const rounds: Times[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    samples.push(...(await engineRound(trainer, batch)));
    singles.push(...(await singleSteps(trainer, batch)));
    if (python !== undefined) rounds.push(torchRound(python, name));
  }
  await trainer.release();
  const engine = timesOf(samples);
  const single = timesOf(singles);
  if (rounds.length === 0) return { name, engine, single };
  const minMs = Math.min(...rounds.map((r) => r.minMs));
  const medianMs = timesOf(rounds.map((r) => r.medianMs)).medianMs;
  const torch = { minMs, medianMs, steps: rounds.reduce((n, r) => n + r.steps, 0) };
  return { name, engine, single, torch, ratio: engine.minMs / minMs, target: TARGETS[name] ?? 1 };
}

const python = findTorch({ install: false });
const dir = mkdtempSync(join(tmpdir(), 'shoal-bench-'));
const results: Result[] = [];
const report: Report = { cores: availableParallelism(), batch: BATCH, threads: THREADS, results };
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
      `${name.padEnd(18)} engine ${ms(result.engine)} (one step at a time ${ms(result.single)})  torch ${ms(result.torch)}${ratio}  (min / median)`,
    );
  }
  const idle = await overhead();
  console.log(
    `four parameters     ${ms(idle.grouped)} (one step at a time ${ms(idle.single)}): what a step costs beside computing (target ≤ 0.1)`,
  );
  report.overhead = idle;
  report.memory = memoryOfTraining(dir);
  for (const m of report.memory)
    console.log(
      `memory, ${m.name}, ${m.optimizer}: ${m.parametersMiB.toFixed(0)} MiB of parameters; opening ${(m.openedMiB / m.parametersMiB).toFixed(2)} ×, training ${(m.peakMiB / m.parametersMiB).toFixed(2)} × them${m.optimizer === 'sgd' ? `: 3 × and ${(m.peakMiB - 3 * m.parametersMiB).toFixed(1)} MiB (target 3 × and one batch's activations)` : ''}; with writing ${(m.writtenMiB / m.parametersMiB).toFixed(2)} ×`,
    );
} finally {
  rmSync(dir, { recursive: true, force: true });
}
const tfjs = await tfjsStepMs();
const cnn = results.find((r) => r.name === 'cnn');
for (const [backend, step] of Object.entries(tfjs)) {
  const own = step.model === 'cnn' ? cnn : results.find((r) => r.name === 'mlp');
  const times = own
    ? ` = ${Math.round(step.ms / own.engine.minMs)} × the engine${step.model === 'cnn' ? ' (target ≥ 800)' : ''}`
    : '';
  console.log(`tfjs ${backend}, ${step.model}: ${step.ms.toFixed(1)} ms a step at least${times}`);
}
const mlp = results.find((r) => r.name === 'mlp');
const jaxTimes = (await jaxJsStepMs()).toSorted((a, b) => a - b);
const jaxJs = { minMs: jaxTimes[0] ?? Number.NaN, medianMs: jaxTimes[jaxTimes.length >> 1] ?? 0 };
if (mlp)
  console.log(
    `jax-js wasm, mlp: ${jaxJs.minMs.toFixed(2)} / ${jaxJs.medianMs.toFixed(2)} ms a step = ${(jaxJs.minMs / mlp.engine.minMs).toFixed(1)} × the engine (minima)`,
  );
Object.assign(report, { tfjs, jaxJs });
const out = join(import.meta.dirname, '../../.cache/bench');
mkdirSync(out, { recursive: true });
writeFileSync(join(out, 'training.json'), JSON.stringify(report, null, 2));
console.log(JSON.stringify(report));
