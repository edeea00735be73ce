import { ShoalError } from '@shoal/core';
import type { TaskSamples } from '@shoal/lib';
import type { JsonMap } from '../config/config-node.ts';
import type { DatasetSource } from '../config/test-env.ts';

/** Samples with their attributes, and what a regression is held against. */
export interface BenchmarkSamples extends TaskSamples {
  /** `[size, targetWidth]`; labels are all 0 then. */
  readonly targets?: Float32Array;
  readonly targetWidth?: number;
}

/** A task or a participant that the data itself knows. */
export interface DataPart {
  readonly name: string;
  readonly train: BenchmarkSamples;
  readonly test: BenchmarkSamples;
}

/** What a data set is for one seed. */
export interface BenchmarkData {
  readonly train: BenchmarkSamples;
  readonly test: BenchmarkSamples;
  /** Samples a first model learned from, where it is not to be `train`. */
  readonly initial?: BenchmarkSamples;
  /** Tasks in the order they come, where the data has an order. */
  readonly tasks?: readonly DataPart[];
  /** Participants by nature: hospitals, cities. */
  readonly participants?: readonly DataPart[];
}

/** What a data module returns: all of it, or parts the rest follows from. */
export type GivenData = Partial<BenchmarkData> & Pick<BenchmarkData, 'tasks' | 'participants'>;

/** What is known of a case when its data is made. */
export interface DataContext {
  readonly seed: number;
}

/** A file with data exports such a function; `sources`, if exported, names files it reads. */
export type DataModule<P extends object = JsonMap> = (
  hyperparameters: P,
  context: DataContext,
) => GivenData | Promise<GivenData>;

async function fromFile(
  path: string,
  source: DatasetSource & { kind: 'files' },
): Promise<BenchmarkSamples> {
  const { target, shape, attributes } = source;
  // Loaded only where it is needed: a case with data of its own should not wait for it.
  const lib = await import('@shoal/lib');
  if (attributes.length > 0)
    return lib.readTaskSamples(path, {
      attributes,
      ...(target === undefined ? {} : { target }),
      ...(shape ? { shape } : {}),
    });
  const data = await lib.loadDataset(path, {
    ...(target === undefined ? {} : { target }),
    ...(shape ? { shape } : {}),
  });
  const whole = data.targetWidth === 1 && data.targets.every((t) => Number.isInteger(t) && t >= 0);
  if (whole) return { ...lib.toSamples(data, path), attributes: {} };
  const { inputs, size, targets, targetWidth } = data;
  return {
    inputs,
    shape: data.shape,
    size,
    labels: new BigInt64Array(size),
    attributes: {},
    targets,
    targetWidth,
  };
}

/** Train and test of data that only knows parts. */
async function completed(given: GivenData, what: string): Promise<BenchmarkData> {
  const parts = given.tasks ?? given.participants;
  const { join } = parts ? await import('./parts.ts') : { join: undefined };
  const test = given.test ?? (parts && join?.(parts.map((p) => p.test)));
  if (!test || test.size === 0)
    throw new ShoalError('invalid_argument', `${what}: there are no samples to test on`);
  const none: BenchmarkSamples = {
    inputs: new Float32Array(),
    labels: new BigInt64Array(),
    shape: test.shape,
    size: 0,
    attributes: {},
  };
  const train = given.train ?? (parts && join?.(parts.map((p) => p.train))) ?? none;
  return { ...given, train, test };
}

/**
 * The data of a case.
 *
 * @throws ShoalError naming file and place of what is wrong with it.
 */
export async function loadData(
  source: DatasetSource,
  create: DataModule | undefined,
  seed: number,
): Promise<BenchmarkData> {
  if (source.kind === 'module') {
    if (!create) throw new Error('a data module was not loaded');
    return await completed(await create(source.hyperparameters, { seed }), source.url);
  }
  const test = await fromFile(source.test, source);
  const train = source.train === undefined ? undefined : await fromFile(source.train, source);
  return await completed(train ? { train, test } : { test }, source.test);
}
