import {
  integer,
  isShoalError,
  type JsonObject,
  messageOf,
  readConfig,
  real,
  type SettingTable,
  systemClock,
  text,
} from '@shoal/core';
import {
  BigModelService,
  type Estimator,
  IncrementalInference,
  IncrementalLearning,
  JointInference,
  labelWithModel,
  type Metrics,
  type ModelResult,
  SampleClient,
  type Samples,
  WORKER_SETTINGS,
  type WorkerEnvironment,
} from '@shoal/lib';
import { ServedModel } from './hot-update-service.ts';
import { serveInference } from './inference-server.ts';
import { untilStopped, type WorkerContext } from './process.ts';

/** What a user brings: a model, and how to read samples. */
export interface WorkerParts {
  readonly create: () => Estimator;
  /** Reads the samples of a file cut from the dataset. */
  readonly read: (path: string) => Samples | Promise<Samples>;
  /** A line of the dataset without its label for a sample: what a hard example is kept as. */
  readonly describe?: (sample: Float32Array) => JsonObject;
}

/** Trains from `BASE_MODEL_URL` on `TRAIN_DATASET_URL`, saves to `MODEL_URL`, reports. */
export async function trainWorker(
  parts: WorkerParts,
  { logger, signal }: WorkerContext,
): Promise<Metrics> {
  const job = new IncrementalLearning(parts.create());
  const samples = await parts.read(job.environment.TRAIN_DATASET_URL);
  logger.info('training', { samples: samples.size });
  const onProgress = (p: {
    epoch: number;
    epochs: number;
    step: number;
    steps: number;
    loss: number;
  }): void => {
    if (p.step === p.steps) logger.info('epoch done', { ...p });
  };
  return await job.train(samples, { signal, onProgress });
}

/** Evaluates `MODEL_URLS` on `TEST_DATASET_URL`, the new model first, and reports. */
export async function evaluateWorker(
  parts: WorkerParts,
  { logger }: WorkerContext,
): Promise<readonly ModelResult[]> {
  const job = new IncrementalLearning(parts.create());
  const samples = await parts.read(job.environment.TEST_DATASET_URL);
  logger.info('evaluating', { samples: samples.size });
  return await job.evaluate(samples, parts.read);
}

/**
 * Serves `MODEL_URL`, keeps hard examples for the cloud where `describe` says how, watches for drift,
 * takes new models without dropping a request.
 */
export async function inferWorker(
  parts: Pick<WorkerParts, 'create' | 'describe'> & { readonly probe: Float32Array },
  context: WorkerContext,
): Promise<{ swaps: number }> {
  const { describe } = parts;
  const loop = IncrementalInference.fromEnvironment({ logger: context.logger });
  let served: number | undefined;
  const selfTest = async (estimator: Estimator): Promise<void> => {
    const { probabilities, classes } = await estimator.predict(parts.probe, 1);
    if (!probabilities.every((p) => Number.isFinite(p)))
      throw new Error('the model answers with numbers that are not finite');
    if (served !== undefined && classes !== served)
      throw new Error(`the model has ${classes} classes, the one it would replace ${served}`);
    served = classes;
  };
  const model = await ServedModel.open({ ...context, create: parts.create, selfTest });
  const infer = async (sample: Float32Array): Promise<unknown> => {
    const predictions = await model.use(async (estimator) => await estimator.predict(sample, 1));
    return loop.observe(predictions, describe && (() => describe(sample)));
  };
  const metrics = () => ({ modelSwaps: model.swaps, ...loop.metrics });
  const server = await serveInference({ infer, metrics });
  context.logger.info('serving', { url: server.url });
  await untilStopped(context.signal);
  await server.close();
  await loop.close();
  return { swaps: model.swaps };
}

interface LabelEnvironment extends WorkerEnvironment {
  readonly SAMPLES_SERVER: string;
  readonly SAMPLES_JOB: string;
  readonly SAMPLES_TOKEN: string;
  readonly SAMPLES_AUTHORITY: string;
  readonly LABEL_MIN_CONFIDENCE: number;
  readonly LABEL_MODEL: string;
  readonly LABEL_POLL_MS: number;
}

const LABEL_SETTINGS: SettingTable<LabelEnvironment> = {
  ...WORKER_SETTINGS,
  SAMPLES_SERVER: text('host:port of the sample service'),
  SAMPLES_JOB: text('the job, as the sample service names it'),
  SAMPLES_TOKEN: text('token of the job'),
  SAMPLES_AUTHORITY: text('PEM of the authority of the service’s certificate', ''),
  LABEL_MIN_CONFIDENCE: real('least probability for a label', { min: 0, max: 1 }, 0.9),
  LABEL_MODEL: text('name shown as who labelled', 'model'),
  LABEL_POLL_MS: integer('between looks for new samples', { min: 50, max: 3_600_000 }, 1_000),
};

/** Labels hard examples with `MODEL_URL` where it is sure; the others get its guess as a suggestion. */
export async function labelWorker(
  parts: { readonly estimator: Estimator; readonly parse: (data: JsonObject) => Float32Array },
  { logger, signal }: WorkerContext,
): Promise<{ labelled: number; suggested: number }> {
  const env = readConfig(LABEL_SETTINGS, process.env);
  await parts.estimator.load(env.MODEL_URL);
  const client = new SampleClient({
    address: env.SAMPLES_SERVER,
    token: env.SAMPLES_TOKEN,
    ...(env.SAMPLES_AUTHORITY ? { authority: env.SAMPLES_AUTHORITY } : {}),
  });
  const options = {
    ...parts,
    client,
    job: env.SAMPLES_JOB,
    name: env.LABEL_MODEL,
    minConfidence: env.LABEL_MIN_CONFIDENCE,
    logger,
  };
  const total = { labelled: 0, suggested: 0 };
  while (!signal.aborted) {
    let seen = 0;
    try {
      const pass = await labelWithModel(options);
      seen = pass.seen;
      total.labelled += pass.labelled;
      total.suggested += pass.suggested;
    } catch (error) {
      // The manager may be restarting; two models that do not fit will not fit later either.
      if (isShoalError(error) && error.code === 'failed_precondition') throw error;
      logger.warn('not labelled, will retry', { reason: messageOf(error) });
    }
    if (seen === 0) await systemClock.sleep(env.LABEL_POLL_MS, signal).catch(() => undefined);
  }
  client.close();
  return total;
}

/** The edge's side of joint inference as a service: `POST /predict`. */
export async function jointInferenceWorker(
  estimator: Estimator,
  context: WorkerContext,
): Promise<unknown> {
  await estimator.load(readConfig(WORKER_SETTINGS, process.env).MODEL_URL);
  const joint = JointInference.fromEnvironment(estimator);
  const infer = async (sample: Float32Array): Promise<unknown> => await joint.inference(sample);
  const server = await serveInference({ infer, metrics: () => ({ ...joint.metrics }) });
  context.logger.info('serving', { url: server.url });
  await untilStopped(context.signal);
  await server.close();
  await joint.close();
  return joint.metrics;
}

/** The cloud's side of joint inference: the big model behind `POST /<name>/predict`. */
export async function bigModelWorker(estimator: Estimator, context: WorkerContext): Promise<null> {
  await estimator.load(readConfig(WORKER_SETTINGS, process.env).MODEL_URL);
  const service = BigModelService.fromEnvironment(estimator);
  context.logger.info('serving', { url: await service.start() });
  await untilStopped(context.signal);
  await service.close();
  return null;
}
