import { extname, join } from 'node:path';
import { readConfig, type SettingTable, text } from '@shoal/core';
import type { Samples } from '../data/samples.ts';
import type { Estimator, Metrics, TrainOptions } from '../estimator/estimator.ts';
import { type ModelResult, Reporter } from '../report/local-controller.ts';
import { WORKER_SETTINGS, type WorkerEnvironment } from '../report/worker-environment.ts';

export interface IncrementalEnvironment extends WorkerEnvironment {
  /** The model training starts from. */
  readonly BASE_MODEL_URL: string;
  readonly TRAIN_DATASET_URL: string;
  readonly TEST_DATASET_URL: string;
  /** Models to evaluate, `;`-joined: the new one first. */
  readonly MODEL_URLS: string;
}

const SETTINGS: SettingTable<IncrementalEnvironment> = {
  ...WORKER_SETTINGS,
  BASE_MODEL_URL: text('model to start from', ''),
  TRAIN_DATASET_URL: text('samples to train on', ''),
  TEST_DATASET_URL: text('samples to evaluate on', ''),
  MODEL_URLS: text('models to evaluate, new first', ''),
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
   * Trains from `BASE_MODEL_URL` and saves to `MODEL_URL` (a folder gets `model.onnx`).
   *
   * @returns Metrics on the training samples.
   */
  async train(samples: Samples, options: TrainOptions = {}): Promise<Metrics> {
    const { BASE_MODEL_URL, MODEL_URL } = this.environment;
    await this.#estimator.load(BASE_MODEL_URL);
    let reportedEpoch = 0;
    const onProgress: TrainOptions['onProgress'] = (progress) => {
      options.onProgress?.(progress);
      if (progress.epoch === reportedEpoch) return;
      reportedEpoch = progress.epoch;
      void this.#reporter
        .send({ kind: 'train', status: 'running', ownerInfo: { ...progress } })
        .catch(() => undefined);
    };
    const metrics = await this.#estimator.train(samples, { ...options, onProgress });
    const path = extname(MODEL_URL) === '' ? join(MODEL_URL, 'model.onnx') : MODEL_URL;
    await this.#estimator.save(path);
    await this.#reporter.send({
      kind: 'train',
      status: 'completed',
      results: [this.#result(path, metrics)],
    });
    return metrics;
  }

  /** Evaluates every model of `MODEL_URLS` on the same samples; reports and returns them in that order. */
  async evaluate(samples: Samples): Promise<readonly ModelResult[]> {
    const results: ModelResult[] = [];
    for (const path of this.environment.MODEL_URLS.split(';').filter((p) => p !== '')) {
      await this.#estimator.load(path);
      results.push(this.#result(path, await this.#estimator.evaluate(samples)));
    }
    await this.#reporter.send({ kind: 'eval', status: 'completed', results });
    return results;
  }
}
