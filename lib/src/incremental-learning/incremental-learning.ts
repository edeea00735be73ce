import { basename, dirname, extname, join } from 'node:path';
import {
  choice,
  integer,
  isJsonObject,
  messageOf,
  readConfig,
  type SettingTable,
  ShoalError,
  text,
} from '@shoal/core';
import { type Samples, select } from '../data/samples.ts';
import type { Estimator, Metrics, TrainOptions } from '../estimator/estimator.ts';
import { type ModelResult, Reporter } from '../report/local-controller.ts';
import { WORKER_SETTINGS, type WorkerEnvironment } from '../report/worker-environment.ts';
import { uploadToS3 } from '../storage/upload.ts';
import { RehearsalBuffer } from './rehearsal-buffer.ts';

export interface IncrementalEnvironment extends WorkerEnvironment {
  /** The model training starts from. */
  readonly BASE_MODEL_URL: string;
  readonly TRAIN_DATASET_URL: string;
  readonly TEST_DATASET_URL: string;
  /** Models to evaluate, `;`-joined: the new one first. */
  readonly MODEL_URLS: string;
  /** Samples kept against forgetting; 0 keeps none. */
  readonly REHEARSAL_SAMPLES: number;
  readonly REHEARSAL_METHOD: 'replay' | 'der++';
  readonly REHEARSAL_KEEP: 'reservoir' | 'class-balanced';
  /** Folder in S3 that gets a copy of the trained model; empty for none. */
  readonly MODEL_MIRROR_URL: string;
  readonly S3_ENDPOINT_URL: string;
  readonly ACCESS_KEY_ID: string;
  readonly SECRET_ACCESS_KEY: string;
  /** Guarded slices, JSON. */
  readonly GUARDS: string;
  /** Datasets of those that have one, `;`-joined, in their order. */
  readonly GUARD_DATASET_URLS: string;
}

/** A slice on which a new model may not be worse. */
interface Guard {
  readonly name: string;
  readonly label?: number;
  /** Name of a dataset; its file is in `GUARD_DATASET_URLS`. */
  readonly dataset?: unknown;
  readonly metric: string;
}

const SETTINGS: SettingTable<IncrementalEnvironment> = {
  ...WORKER_SETTINGS,
  BASE_MODEL_URL: text('model to start from', ''),
  TRAIN_DATASET_URL: text('samples to train on', ''),
  TEST_DATASET_URL: text('samples to evaluate on', ''),
  MODEL_URLS: text('models to evaluate, new first', ''),
  REHEARSAL_SAMPLES: integer(
    'samples kept against forgetting; 0 for none',
    { min: 0, max: 1_000_000 },
    500,
  ),
  REHEARSAL_METHOD: choice('replay or der++', ['replay', 'der++'], 'replay'),
  REHEARSAL_KEEP: choice(
    'which samples are kept: reservoir or class-balanced',
    ['reservoir', 'class-balanced'],
    'class-balanced',
  ),
  MODEL_MIRROR_URL: text('s3:// folder that gets a copy of the trained model', ''),
  S3_ENDPOINT_URL: text('S3 endpoint', ''),
  ACCESS_KEY_ID: text('S3 access key', ''),
  SECRET_ACCESS_KEY: text('S3 secret key', ''),
  GUARDS: text('guarded slices, JSON [{"name", "label" | "dataset", "metric"}]', ''),
  GUARD_DATASET_URLS: text('datasets of the guards that have one, joined by ;', ''),
};

/** Path as the node knows it: without the prefix under which host paths are mounted. */
export function hostPathOf(path: string, prefix: string): string {
  const clean = prefix.replace(/\/+$/, '');
  return clean !== '' && path.startsWith(`${clean}/`) ? path.slice(clean.length) : path;
}

/**
 * Incremental learning from inside a worker: trains on new samples from the deployed model,
 * evaluates new against old on the same samples, and reports both to the local controller.
 */
export class IncrementalLearning {
  readonly environment: IncrementalEnvironment;
  readonly #estimator: Estimator;
  readonly #reporter: Reporter;

  constructor(
    estimator: Estimator,
    source: Readonly<Record<string, string | undefined>> = process.env,
  ) {
    this.environment = readConfig(SETTINGS, source);
    this.#estimator = estimator;
    const { LC_SERVER, WORKER_NAME, NAMESPACE, JOB_NAME } = this.environment;
    this.#reporter = new Reporter({
      server: LC_SERVER,
      workerName: WORKER_NAME,
      namespace: NAMESPACE,
      ownerName: JOB_NAME,
      ownerKind: 'incrementallearningjob',
    });
  }

  #result(path: string, metrics: Metrics): ModelResult {
    const url = hostPathOf(path, this.environment.DATA_PATH_PREFIX);
    return { format: extname(path).slice(1), url, metrics };
  }

  /**
   * Trains from `BASE_MODEL_URL` and saves to `MODEL_URL` (a folder gets `model.onnx`). Samples kept
   * beside the base model are learned again with the new ones; some of both lie beside the new model.
   *
   * @returns Metrics on the training samples.
   */
  async train(samples: Samples, options: TrainOptions = {}): Promise<Metrics> {
    const { BASE_MODEL_URL, MODEL_URL, REHEARSAL_METHOD } = this.environment;
    await this.#estimator.load(BASE_MODEL_URL);
    const buffer = this.#buffer();
    const known = options.rehearsal ?? buffer?.rehearsal(REHEARSAL_METHOD);
    let reportedEpoch = 0;
    const onProgress: TrainOptions['onProgress'] = (progress) => {
      options.onProgress?.(progress);
      if (progress.epoch === reportedEpoch) return;
      reportedEpoch = progress.epoch;
      void this.#reporter
        .send({ kind: 'train', status: 'running', ownerInfo: { ...progress } })
        .catch(() => undefined);
    };
    const metrics = await this.#estimator.train(samples, {
      ...options,
      onProgress,
      ...(known ? { rehearsal: known } : {}),
    });
    const path = extname(MODEL_URL) === '' ? join(MODEL_URL, 'model.onnx') : MODEL_URL;
    await this.#estimator.save(path);
    if (buffer) this.#keep(buffer, samples, dirname(path));
    const { MODEL_MIRROR_URL } = this.environment;
    if (MODEL_MIRROR_URL !== '')
      await uploadToS3(path, `${MODEL_MIRROR_URL}/${basename(path)}`, { env: this.environment });
    await this.#reporter.send({
      kind: 'train',
      status: 'completed',
      results: [this.#result(path, metrics)],
    });
    return metrics;
  }

  /** What is kept against forgetting, as it lies beside the base model; begun anew when it cannot be read. */
  #buffer(): RehearsalBuffer | undefined {
    const { BASE_MODEL_URL, REHEARSAL_SAMPLES: capacity, REHEARSAL_KEEP: keep } = this.environment;
    if (capacity === 0) return undefined;
    try {
      return RehearsalBuffer.open(dirname(BASE_MODEL_URL), { capacity, keep });
    } catch (error) {
      process.emitWarning(`rehearsal begins anew: ${messageOf(error)}`);
      return RehearsalBuffer.empty({ capacity, keep });
    }
  }

  /** A training that is done is not given up for what helps the next one. */
  #keep(buffer: RehearsalBuffer, samples: Samples, folder: string): void {
    try {
      buffer.offer(samples);
      buffer.write(folder);
    } catch (error) {
      process.emitWarning(`nothing is kept against forgetting: ${messageOf(error)}`);
    }
  }

  /**
   * Evaluates every model of `MODEL_URLS` on the same samples, and on every guarded slice as
   * `<metric>@<slice>`; reports and returns them in that order.
   *
   * @param read Reads the dataset of a guard; needed when one has its own.
   * @throws ShoalError `invalid_argument` when `GUARDS` is not what it should be.
   */
  async evaluate(
    samples: Samples,
    read?: (path: string) => Samples | Promise<Samples>,
  ): Promise<readonly ModelResult[]> {
    const results: ModelResult[] = [];
    const slices = await this.#slices(samples, read);
    for (const path of this.environment.MODEL_URLS.split(';').filter((p) => p !== '')) {
      await this.#estimator.load(path);
      const metrics: Record<string, number> = { ...(await this.#estimator.evaluate(samples)) };
      for (const { guard, part } of slices) {
        // A slice without samples has no figure: the local controller says so.
        const value =
          part.size > 0 ? (await this.#estimator.evaluate(part))[guard.metric] : undefined;
        if (value !== undefined) metrics[`${guard.metric}@${guard.name}`] = value;
      }
      results.push(this.#result(path, metrics));
    }
    await this.#reporter.send({ kind: 'eval', status: 'completed', results });
    return results;
  }

  async #slices(
    samples: Samples,
    read: ((path: string) => Samples | Promise<Samples>) | undefined,
  ): Promise<{ guard: Guard; part: Samples }[]> {
    const files = this.environment.GUARD_DATASET_URLS.split(';').filter((p) => p !== '');
    const slices: { guard: Guard; part: Samples }[] = [];
    for (const guard of parseGuards(this.environment.GUARDS)) {
      const file = guard.dataset === undefined ? '' : files.shift();
      if (file === undefined || (file !== '' && !read))
        throw new ShoalError(
          'invalid_argument',
          `guard "${guard.name}" has a dataset of its own: ${read ? 'GUARD_DATASET_URLS lacks its file' : 'evaluate() needs to be told how to read it'}`,
        );
      const all = file === '' || !read ? samples : await read(file);
      slices.push({ guard, part: ofClass(all, guard.label) });
    }
    return slices;
  }
}

function parseGuards(json: string): Guard[] {
  if (json === '') return [];
  try {
    const value: unknown = JSON.parse(json);
    if (
      Array.isArray(value) &&
      value.every((g) => isJsonObject(g) && typeof g['name'] === 'string')
    )
      return value.map((g: Guard) => ({ ...g, metric: g.metric ?? 'accuracy' }));
  } catch {
    // told below
  }
  throw new ShoalError('invalid_argument', `GUARDS is not a list of {"name", …}: ${json}`);
}

function ofClass(samples: Samples, label: number | undefined): Samples {
  if (label === undefined) return samples;
  const at = Array.from(samples.labels, (l, i) => (l === BigInt(label) ? i : -1));
  return select(
    samples,
    at.filter((i) => i >= 0),
  );
}
