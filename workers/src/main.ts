import { readFileSync } from 'node:fs';
import {
  choice,
  integer,
  type JsonObject,
  readConfig,
  real,
  type SettingTable,
  ShoalError,
  text,
} from '@shoal/core';
import {
  type ComponentChoices,
  imageData,
  loadDataset,
  OnnxDetector,
  OnnxEstimator,
  parseImageData,
  readImageLines,
  readTaskSamples,
  toSamples,
} from '@shoal/lib';
import { aggregateWorker, participateWorker } from './federated-workers.ts';
import {
  evaluateTasksWorker,
  knowledgeBaseWorker,
  learnTasksWorker,
  lifelongInferWorker,
} from './lifelong-workers.ts';
import { runWorker, type WorkerContext } from './process.ts';
import {
  bigModelWorker,
  evaluateWorker,
  inferWorker,
  jointInferenceWorker,
  labelWorker,
  trainWorker,
} from './worker-kinds.ts';

/**
 * Ready-made workers for image classifiers in ONNX files: `node workers/src/main.ts KIND`.
 * Hyper-parameters are environment variables of the pod template.
 */
interface ClassifierSettings {
  readonly INPUT_SHAPE: string;
  readonly EPOCHS: number;
  readonly BATCH_SIZE: number;
  readonly LEARNING_RATE: number;
  readonly OPTIMIZER: 'adam' | 'sgd';
  readonly THREADS: number;
  readonly FREEZE: string;
  readonly TASK: 'classify' | 'detect';
  readonly LIFELONG_COMPONENTS: string;
  readonly LIFELONG_MODEL: string;
  readonly LIFELONG_ATTRIBUTES: string;
}

const SETTINGS: SettingTable<ClassifierSettings> = {
  INPUT_SHAPE: text('shape of one sample, e.g. 1,28,28', '1,28,28'),
  EPOCHS: integer('passes over the data', { min: 1, max: 10_000 }, 3),
  BATCH_SIZE: integer('samples a step', { min: 1, max: 65_536 }, 32),
  LEARNING_RATE: real('step size', { min: 1e-9, max: 100 }, 1e-3),
  OPTIMIZER: choice('adam or sgd', ['adam', 'sgd'], 'adam'),
  THREADS: integer('threads of the runtime', { min: 1, max: 256 }, 1),
  FREEZE: text('patterns of parameters that training leaves alone, joined by commas', ''),
  TASK: choice(
    'what the model of joint inference does: classify, or detect boxes',
    ['classify', 'detect'],
    'classify',
  ),
  LIFELONG_COMPONENTS: text(
    'components of a lifelong job by slot, JSON {"taskDefinition": {"method", "param"}, …}',
    '{}',
  ),
  LIFELONG_MODEL: text('untrained ONNX model of a lifelong job', ''),
  LIFELONG_ATTRIBUTES: text('columns of a CSV that are attributes, joined by commas', ''),
};

const KINDS = [
  'train',
  'evaluate',
  'infer',
  'label',
  'joint-inference',
  'big-model',
  'aggregate',
  'participate',
  'lifelong-train',
  'lifelong-evaluate',
  'lifelong-infer',
  'knowledge-base',
] as const;

/** How samples are read and described, for images and for tables. */
function partsOf(
  env: ClassifierSettings,
  shape: readonly number[],
  create: (model?: string) => OnnxEstimator,
) {
  const lifelong = {
    create: (): OnnxEstimator => create(env.LIFELONG_MODEL),
    components: JSON.parse(env.LIFELONG_COMPONENTS) as ComponentChoices,
    read: (path: string) =>
      readTaskSamples(path, {
        shape,
        attributes: env.LIFELONG_ATTRIBUTES.split(',').filter((a) => a !== ''),
      }),
  };
  const parts = {
    create: () => create(),
    read: async (path: string) =>
      path.endsWith('.jsonl')
        ? readImageLines(path, shape)
        : toSamples(await loadDataset(path, { shape }), path),
    describe: imageData,
    parse: (data: JsonObject) => parseImageData(data, shape),
  };
  return { lifelong, parts };
}

async function run(kind: string, context: WorkerContext): Promise<unknown> {
  const env = readConfig(SETTINGS, process.env);
  const shape = env.INPUT_SHAPE.split(',').map(Number);
  const elements = shape.reduce((n, d) => n * d, 1);
  const create = (model?: string): OnnxEstimator =>
    new OnnxEstimator({
      ...(model ? { model: readFileSync(model) } : {}),
      epochs: env.EPOCHS,
      batchSize: env.BATCH_SIZE,
      threads: env.THREADS,
      ...(env.FREEZE ? { freeze: env.FREEZE.split(',').map((p) => p.trim()) } : {}),
      optimizer: { name: env.OPTIMIZER, learningRate: env.LEARNING_RATE },
    });
  const { lifelong, parts } = partsOf(env, shape, create);
  const served = (): OnnxEstimator | OnnxDetector =>
    env.TASK === 'detect' ? new OnnxDetector({ threads: env.THREADS }) : create();
  switch (kind) {
    case 'train':
      return await trainWorker(parts, context);
    case 'evaluate':
      return await evaluateWorker(parts, context);
    case 'infer':
      return await inferWorker({ ...parts, probe: new Float32Array(elements) }, context);
    case 'label':
      return await labelWorker({ estimator: create(), parse: parts.parse }, context);
    case 'joint-inference':
      return await jointInferenceWorker(served(), context);
    case 'aggregate':
      return await aggregateWorker(context, { read: parts.read });
    case 'participate':
      return await participateWorker({ read: parts.read, threads: env.THREADS }, context);
    case 'lifelong-train':
      return await learnTasksWorker(lifelong, context);
    case 'lifelong-evaluate':
      return await evaluateTasksWorker(lifelong, context);
    case 'lifelong-infer':
      return await lifelongInferWorker(lifelong, context);
    case 'knowledge-base':
      return await knowledgeBaseWorker(context);
    case 'big-model':
      return await bigModelWorker(served(), context);
    default:
      throw new ShoalError(
        'invalid_argument',
        `usage: node workers/src/main.ts ${KINDS.join('|')}; got "${kind}"`,
      );
  }
}

const kind = process.argv[2] ?? '';
await runWorker(kind || 'worker', async (context) => await run(kind, context));
