import { readConfig } from '@shoal/core';
import {
  argMax,
  BigModelService,
  createMiner,
  type Estimator,
  IncrementalLearning,
  JointInference,
  type Metrics,
  type ModelResult,
  parseMinerParameters,
  type Samples,
  WORKER_SETTINGS,
} from '@shoal/lib';
import { ServedModel } from './hot-update-service.ts';
import { serveInference } from './inference-server.ts';
import { untilStopped, type WorkerContext } from './process.ts';

/** What a user brings: a model, and how to read samples. */
export interface WorkerParts {
  readonly create: () => Estimator;
  /** Reads the samples of a file cut from the dataset. */
  readonly read: (path: string) => Samples;
}

/** Trains from `BASE_MODEL_URL` on `TRAIN_DATASET_URL`, saves to `MODEL_URL`, reports. */
export async function trainWorker(
  parts: WorkerParts,
  { logger, signal }: WorkerContext,
): Promise<Metrics> {
  const job = new IncrementalLearning(parts.create());
  const samples = parts.read(job.environment.TRAIN_DATASET_URL);
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
  const samples = parts.read(job.environment.TEST_DATASET_URL);
  logger.info('evaluating', { samples: samples.size });
  return await job.evaluate(samples);
}

/** Serves `MODEL_URL`, marks hard examples, takes new models without dropping a request. */
export async function inferWorker(
  parts: Pick<WorkerParts, 'create'> & { readonly probe: Float32Array },
  context: WorkerContext,
): Promise<{ swaps: number }> {
  const env = readConfig(WORKER_SETTINGS, process.env);
  const miner = createMiner(
    env.HEM_NAME || 'CrossEntropy',
    parseMinerParameters(env.HEM_PARAMETERS),
  );
  const selfTest = async (estimator: Estimator): Promise<void> => {
    const { probabilities } = await estimator.predict(parts.probe, 1);
    if (!probabilities.every((p) => Number.isFinite(p)))
      throw new Error('the model answers with numbers that are not finite');
  };
  const model = await ServedModel.open({ ...context, create: parts.create, selfTest });
  const infer = async (sample: Float32Array): Promise<unknown> => {
    const { probabilities } = await model.use(
      async (estimator) => await estimator.predict(sample, 1),
    );
    const verdict = miner.judge({ kind: 'probabilities', probabilities });
    return { label: argMax(probabilities, 0, probabilities.length), ...verdict };
  };
  const server = await serveInference({ infer, metrics: () => ({ modelSwaps: model.swaps }) });
  context.logger.info('serving', { url: server.url });
  await untilStopped(context.signal);
  await server.close();
  return { swaps: model.swaps };
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
