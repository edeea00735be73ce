import { accessSync, constants, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { fromNode, ShoalError, seededRandom } from '@shoal/core';
import { loadDataset } from '@shoal/lib';
import {
  type Batch,
  constantRate,
  cosineDecay,
  LOSS_NAMES,
  type LossOptions,
  OPTIMIZER_NAMES,
  type OptimizerOptions,
  type Schedule,
  Trainer,
} from '@shoal/training';
import { ProgressView } from '../terminal/progress.ts';
import { renderTable } from '../terminal/table.ts';
import { batchOf, type FedData, fedData, fedOf, weightOf } from './model-data.ts';
import { parseDimensions } from './model-inspect.ts';

export interface TrainFlags {
  readonly data: string;
  readonly loss: string;
  readonly optimizer: string;
  readonly learningRate: string;
  readonly schedule: string;
  readonly epochs: string;
  readonly batchSize: string;
  readonly validation: string;
  readonly seed: string;
  readonly threads: string;
  readonly out?: string;
  readonly target?: string;
  readonly classAxis?: string;
  readonly ignoreIndex?: string;
  readonly freeze: readonly string[];
  readonly dimension: readonly string[];
  readonly json?: boolean;
}

interface Numbers {
  readonly learningRate: number;
  readonly epochs: number;
  readonly batchSize: number;
  readonly validation: number;
  readonly seed: number;
  readonly threads: number;
}

function numbersOf(flags: TrainFlags): Numbers {
  const faults: string[] = [];
  const number = (
    name: string,
    text: string,
    fits: (n: number) => boolean,
    want: string,
  ): number => {
    const value = Number(text);
    if (text.trim() === '' || Number.isNaN(value) || !fits(value))
      faults.push(`--${name} must be ${want}, got "${text}"`);
    return value;
  };
  const whole = (n: number): boolean => Number.isInteger(n) && n >= 1;
  const numbers = {
    learningRate: number('learning-rate', flags.learningRate, (n) => n > 0, 'a number > 0'),
    epochs: number('epochs', flags.epochs, whole, 'a whole number ≥ 1'),
    batchSize: number('batch-size', flags.batchSize, whole, 'a whole number ≥ 1'),
    validation: number('validation', flags.validation, (n) => n >= 0 && n < 1, 'in [0, 1)'),
    seed: number('seed', flags.seed, Number.isInteger, 'a whole number'),
    threads: number('threads', flags.threads, whole, 'a whole number ≥ 1'),
  };
  const known = (what: string, value: string, names: readonly string[]): void => {
    if (!names.includes(value))
      faults.push(`--${what} must be one of ${names.join(', ')}, got "${value}"`);
  };
  known('loss', flags.loss, SINGLE_TARGET_LOSSES);
  known('schedule', flags.schedule, ['constant', 'cosine']);
  known('optimizer', flags.optimizer, OPTIMIZER_NAMES);
  if (faults.length > 0) throw new ShoalError('invalid_argument', faults.join('; '));
  return numbers;
}

/** Losses that compare with one tensor, as a file of samples holds it. */
export const SINGLE_TARGET_LOSSES: readonly string[] = LOSS_NAMES.filter(
  (n) => n !== 'distillation' && n !== 'cox-partial-likelihood',
);

interface Scores {
  readonly loss: number;
  readonly metrics: Readonly<Record<string, number>>;
}

/** The loss as the flags describe it. @throws ShoalError `invalid_argument` for flags that do not go with it. */
function lossOf({ loss, classAxis, ignoreIndex }: TrainFlags): LossOptions {
  if (loss !== 'softmax-cross-entropy') {
    if ((classAxis ?? ignoreIndex) === undefined) return { name: loss } as LossOptions;
    throw new ShoalError(
      'invalid_argument',
      `--${classAxis === undefined ? 'ignore-index' : 'class-axis'} goes with --loss softmax-cross-entropy only`,
    );
  }
  if (classAxis !== undefined && classAxis !== 'last' && classAxis !== 'second')
    throw new ShoalError(
      'invalid_argument',
      `--class-axis must be last or second, got "${classAxis}"`,
    );
  if (ignoreIndex !== undefined && !/^-?\d+$/.test(ignoreIndex))
    throw new ShoalError(
      'invalid_argument',
      `--ignore-index must be a whole number, got "${ignoreIndex}"`,
    );
  return {
    name: loss,
    ...(classAxis ? { classAxis } : {}),
    ...(ignoreIndex === undefined ? {} : { ignoreIndex: Number(ignoreIndex) }),
  };
}

/** Mean of per-batch scores, weighted by what they are means over. */
class Average {
  #size = 0;
  #loss = 0;
  readonly #metrics: Record<string, number> = {};

  add({ loss, metrics }: Scores, size: number): void {
    this.#size += size;
    this.#loss += loss * size;
    for (const [k, v] of Object.entries(metrics))
      this.#metrics[k] = (this.#metrics[k] ?? 0) + v * size;
  }

  get scores(): Scores {
    const n = Math.max(1, this.#size);
    return {
      loss: this.#loss / n,
      metrics: Object.fromEntries(Object.entries(this.#metrics).map(([k, v]) => [k, v / n])),
    };
  }
}

function batched(order: Uint32Array, size: number): Uint32Array[] {
  const parts: Uint32Array[] = [];
  for (let at = 0; at < order.length; at += size) parts.push(order.subarray(at, at + size));
  return parts;
}

async function scoresOn(
  trainer: Trainer,
  data: FedData,
  at: { readonly order: Uint32Array; readonly loss: string; readonly batchSize: number },
): Promise<Scores> {
  const average = new Average();
  for (const part of batched(at.order, at.batchSize))
    average.add(await trainer.evaluate(batchOf(data, part, at.loss)), weightOf(data, part));
  return average.scores;
}

function percent(v: number | undefined): string {
  return v === undefined ? '' : `${(v * 100).toFixed(1)} %`;
}

function row(label: string, scores: Scores, rest: Scores | undefined, seconds: string): string[] {
  const score = ({ loss, metrics }: Scores): string[] => [
    loss.toFixed(4),
    'accuracy' in metrics ? percent(metrics['accuracy']) : (metrics['mae']?.toFixed(4) ?? ''),
  ];
  return [label, ...score(scores), ...(rest ? score(rest) : ['', '']), seconds];
}

interface Run {
  readonly trainer: Trainer;
  readonly data: FedData;
  readonly held: Uint32Array;
  readonly rest: Uint32Array;
  readonly loss: string;
  readonly rate: Schedule;
  readonly numbers: Numbers;
}

interface Outcome {
  readonly train: Scores;
  readonly heldOut: Scores | undefined;
}

async function score(run: Run): Promise<Outcome> {
  const at = { loss: run.loss, batchSize: run.numbers.batchSize };
  const { trainer, data, held, rest } = run;
  return {
    train: await scoresOn(trainer, data, { ...at, order: rest }),
    heldOut: held.length === 0 ? undefined : await scoresOn(trainer, data, { ...at, order: held }),
  };
}

function* batchesOf({ data, loss }: Run, parts: readonly Uint32Array[]): Generator<Batch> {
  for (const part of parts) yield batchOf(data, part, loss);
}

async function trainEpoch(run: Run, order: Uint32Array, view: ProgressView): Promise<Scores> {
  const average = new Average();
  const parts = batched(order, run.numbers.batchSize);
  let done = 0;
  for await (const result of run.trainer.train(batchesOf(run, parts), run.rate)) {
    average.add(result, weightOf(run.data, parts[done] ?? new Uint32Array()));
    done++;
    view.progress(done / parts.length, `loss ${result.loss.toFixed(4)}`);
  }
  return average.scores;
}

/** Trains for the wanted epochs; one table row each. */
async function trainAll(run: Run): Promise<{ rows: string[][]; before: Outcome; after: Outcome }> {
  const { rest, numbers } = run;
  const view = new ProgressView();
  const random = seededRandom(numbers.seed).fork('order');
  const before = await score(run);
  const rows = [row('before', before.train, before.heldOut, '')];
  let after = before;
  for (let epoch = 1; epoch <= numbers.epochs; epoch++) {
    view.stage(`epoch ${epoch} of ${numbers.epochs}`);
    const startedAt = performance.now();
    const order = Uint32Array.from(random.permutation(rest.length), (i) => rest[i] ?? 0);
    const train = await trainEpoch(run, order, view);
    view.finish();
    after = { train, heldOut: (await score({ ...run, rest: new Uint32Array() })).heldOut };
    const seconds = `${((performance.now() - startedAt) / 1000).toFixed(1)} s`;
    rows.push(row(String(epoch), train, after.heldOut, seconds));
  }
  return { rows, before, after };
}

/** What fills whole batches, where the model takes no others. */
function whole(order: Uint32Array, batch: number | undefined): Uint32Array {
  return batch === undefined ? order : order.subarray(0, order.length - (order.length % batch));
}

async function openRun(file: string, flags: TrainFlags, given: Numbers): Promise<Run> {
  const dimensions = parseDimensions(flags.dimension);
  const fed = await fedOf(file, dimensions);
  const { shape, batch } = fed;
  const numbers = { ...given, batchSize: batch ?? given.batchSize };
  const read = await loadDataset(flags.data, {
    shape,
    ...(flags.target === undefined ? {} : { target: flags.target }),
  });
  const loss = lossOf(flags);
  const ignored = loss.name === 'softmax-cross-entropy' ? loss.ignoreIndex : undefined;
  const data = { ...fedData(read, fed, flags.data), ignored };
  const trainer = await Trainer.create({
    model: file,
    loss,
    optimizer: { name: flags.optimizer, learningRate: numbers.learningRate } as OptimizerOptions,
    stopGradient: flags.freeze,
    dimensions,
    threads: numbers.threads,
    seed: numbers.seed,
  });
  const order = seededRandom(numbers.seed).permutation(data.size);
  const split = Math.floor(data.size * numbers.validation);
  const [held, rest] = [
    whole(order.subarray(0, split), batch),
    whole(order.subarray(split), batch),
  ];
  if (rest.length === 0)
    throw new ShoalError(
      'invalid_argument',
      `${data.size} samples make no batch to train on${batch === undefined ? '' : ` of the ${batch} that ${file} takes`}`,
    );
  const steps = numbers.epochs * Math.ceil(rest.length / numbers.batchSize);
  const rate =
    flags.schedule === 'cosine'
      ? cosineDecay(numbers.learningRate, steps)
      : constantRate(numbers.learningRate);
  return { trainer, data, held, rest, loss: flags.loss, rate, numbers };
}

/** Beyond this a file has its tensors beside it: a protobuf message holds 2 GiB. */
const MOST_INSIDE_BYTES = 1.5e9;

/** @throws ShoalError when a file could not be written there: better known before training than after. */
function expectWritable(path: string): void {
  const folder = dirname(resolve(path));
  try {
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory())
      throw new ShoalError('invalid_argument', `--out ${path} is a folder; name a file`);
    accessSync(folder, constants.W_OK);
  } catch (error) {
    throw fromNode(error, `the trained model cannot be written to ${path}`);
  }
}

/** Trains; where that has to stop, what is good is written all the same. */
async function trainAndKeep(run: Run, keep: () => void): ReturnType<typeof trainAll> {
  try {
    return await trainAll(run);
  } catch (error) {
    if (run.trainer.steps > 0) keep();
    throw error;
  }
}

/** `shoal model train FILE --data … --loss …`: fine-tunes any ONNX file. */
export async function modelTrainCommand(file: string, flags: TrainFlags): Promise<void> {
  const trained = flags.out ?? file.replace(/(\.onnx)?$/, '.trained.onnx');
  expectWritable(trained);
  const run = await openRun(file, flags, numbersOf(flags));
  const { trainer, rest, held } = run;
  const parameters = trainer.parameters.reduce((n, p) => n + p.shape.reduce((a, b) => a * b, 1), 0);
  const write = (): void =>
    trainer.deployTo(trained, { externalData: parameters * 4 > MOST_INSIDE_BYTES });
  const { rows, before, after } = await trainAndKeep(run, () => {
    write();
    process.stderr.write(`what was learned until then is in ${trained}\n`);
  });
  write();
  await trainer.release();
  const metric = flags.loss === 'softmax-cross-entropy' ? 'ACCURACY' : 'ERROR';
  const head = ['EPOCH', 'LOSS', metric, 'HELD-OUT LOSS', `HELD-OUT ${metric}`, 'TIME'];
  if (!flags.json)
    process.stdout.write(
      `${renderTable([head, ...rows])}\n\n${parameters.toLocaleString('en-US')} values trained on ${rest.length} samples; written to ${trained}\n`,
    );
  const counts = { samples: rest.length, heldOut: held.length, parameters };
  process.stdout.write(`${JSON.stringify({ model: file, trained, ...counts, before, after })}\n`);
}
