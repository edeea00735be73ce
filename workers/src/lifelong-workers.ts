import { readFileSync } from 'node:fs';
import {
  integer,
  messageOf,
  readConfig,
  type SettingTable,
  seededRandom,
  superviseLoop,
  systemClock,
  text,
} from '@shoal/core';
import {
  type Estimator,
  followModel,
  KnowledgeServer,
  KnowledgeStore,
  LifelongLearning,
  type LifelongOptions,
  Reporter,
  readIndex,
  type TaskSamples,
} from '@shoal/lib';
import { serveInference } from './inference-server.ts';
import { untilStopped, type WorkerContext } from './process.ts';

/** What a user brings: a class of models, components, and how to read samples. */
export interface LifelongParts
  extends Pick<LifelongOptions, 'create' | 'components' | 'criterion'> {
  /** Reads the samples of a file cut from the dataset. */
  readonly read: (path: string) => TaskSamples;
}

/** Learns tasks from `TRAIN_DATASET_URL` and offers them to the knowledge base as candidates. */
export async function learnTasksWorker(
  parts: LifelongParts,
  { logger, signal }: WorkerContext,
): Promise<unknown> {
  const learning = await LifelongLearning.open({ ...parts, logger });
  try {
    const samples = parts.read(learning.environment.TRAIN_DATASET_URL);
    logger.info('learning tasks', { samples: samples.size });
    const { candidates, waiting } = await learning.train(samples, { signal });
    return { candidates: candidates.map((c) => `${c.name}@${c.revision}`), waiting };
  } finally {
    await learning.close();
  }
}

/** Evaluates the candidates of `MODEL_URLS` on `TEST_DATASET_URL` and admits the good ones. */
export async function evaluateTasksWorker(
  parts: LifelongParts,
  { logger }: WorkerContext,
): Promise<unknown> {
  const learning = await LifelongLearning.open({ ...parts, logger });
  try {
    const samples = parts.read(learning.environment.TEST_DATASET_URL);
    logger.info('evaluating tasks', { samples: samples.size });
    const { verdicts, version } = await learning.evaluate(samples);
    return { version, verdicts: verdicts.map(({ metrics: _metrics, ...v }) => v) };
  } finally {
    await learning.close();
  }
}

/** How often unseen samples and figures go up. */
const SYNC_MS = 2_000;

interface ServingEnvironment {
  readonly MODEL_HOT_UPDATE_CONFIG: string;
  readonly MODEL_POLL_PERIOD_SECONDS: number;
}

const SERVING: SettingTable<ServingEnvironment> = {
  MODEL_HOT_UPDATE_CONFIG: text('file the local controller points at new versions', ''),
  MODEL_POLL_PERIOD_SECONDS: integer('seconds between looks at it', { min: 1, max: 86_400 }, 30),
};

/** A version of the knowledge as what hot update swaps: loading it is adopting it. */
function versionOf(learning: LifelongLearning): Estimator {
  const nothing = (): Promise<never> =>
    Promise.reject(new Error('an index of the knowledge base does not answer by itself'));
  return {
    load: async (path) => {
      await learning.edge.adopt(readIndex(path).version);
    },
    save: nothing,
    train: nothing,
    evaluate: nothing,
    predict: nothing,
    close: () => Promise.resolve(),
  };
}

/**
 * Answers `POST /predict {"data": […], "attributes": […]}` with the tasks of the knowledge base,
 * keeps what no task knows and sends it up, takes new versions between two requests, and goes on
 * without network.
 */
export async function lifelongInferWorker(
  parts: Omit<LifelongParts, 'read'>,
  { logger, signal }: WorkerContext,
): Promise<unknown> {
  const learning = await LifelongLearning.open({ ...parts, logger });
  const env = readConfig(SERVING, process.env);
  const { LC_SERVER, WORKER_NAME, NAMESPACE, JOB_NAME } = learning.environment;
  const reporter = new Reporter({
    server: LC_SERVER,
    workerName: WORKER_NAME,
    namespace: NAMESPACE,
    ownerName: JOB_NAME,
    ownerKind: 'lifelonglearningjob',
  });
  if (!learning.edge.restore())
    await learning.edge.adopt().catch((error: unknown) => {
      logger.info('no knowledge yet', { reason: messageOf(error) });
    });
  const following =
    env.MODEL_HOT_UPDATE_CONFIG === ''
      ? Promise.resolve()
      : followModel({
          configPath: env.MODEL_HOT_UPDATE_CONFIG,
          periodMs: env.MODEL_POLL_PERIOD_SECONDS * 1000,
          create: () => versionOf(learning),
          selfTest: () => Promise.resolve(),
          onSwap: () => undefined,
          reporter,
          clock: systemClock,
          logger,
          signal,
        });
  const sync = async (): Promise<void> => {
    await learning.upload();
    await systemClock.sleep(SYNC_MS, signal);
  };
  const syncing = superviseLoop(
    'upload',
    sync,
    { clock: systemClock, random: seededRandom(Date.now()), logger },
    { baseMs: 500, capMs: 30_000, signal },
  );
  const server = await serveInference({
    infer: async (inputs, attributes) => await learning.inference({ inputs, attributes }),
    metrics: () => learning.metrics,
    allowMissing: true,
  });
  logger.info('serving', { url: server.url, version: learning.edge.version });
  await untilStopped(signal);
  await server.close();
  await Promise.all([following, syncing]);
  const figures = learning.metrics;
  await learning.close();
  return figures;
}

interface KnowledgeBaseEnvironment {
  readonly KB_DATA_DIR: string;
  readonly KB_BIND_HOST: string;
  readonly KB_BIND_PORT: number;
  readonly KB_KEY_FILE: string;
  readonly KB_TLS_FILE: string;
  readonly KB_MAX_BYTES: number;
}

const KNOWLEDGE_BASE: SettingTable<KnowledgeBaseEnvironment> = {
  KB_DATA_DIR: text('folder for the knowledge of all jobs', '/var/lib/shoal/knowledge-base'),
  KB_BIND_HOST: text('address to listen on', '0.0.0.0'),
  KB_BIND_PORT: integer('port to listen on', { min: 0, max: 65_535 }, 9020),
  KB_KEY_FILE: text('file with the key shared with the global manager'),
  KB_TLS_FILE: text('JSON file with certificate and privateKey', ''),
  KB_MAX_BYTES: integer('bytes one job may keep', { min: 1, max: 2 ** 50 }, 8 * 2 ** 30),
};

/** How often models that newer ones have overtaken are removed. */
const TIDY_MS = 10 * 60_000;

/** The knowledge base of all lifelong jobs, until the signal aborts. */
export async function knowledgeBaseWorker({ logger, signal }: WorkerContext): Promise<null> {
  const env = readConfig(KNOWLEDGE_BASE, process.env);
  const store = new KnowledgeStore({ dir: env.KB_DATA_DIR, maxBytesPerJob: env.KB_MAX_BYTES });
  const tls =
    env.KB_TLS_FILE === ''
      ? undefined
      : (JSON.parse(readFileSync(env.KB_TLS_FILE, 'utf8')) as {
          certificate: string;
          privateKey: string;
        });
  const server = new KnowledgeServer({
    store,
    key: readFileSync(env.KB_KEY_FILE, 'utf8').trim(),
    ...(tls ? { tls } : {}),
    host: env.KB_BIND_HOST,
    port: env.KB_BIND_PORT,
    logger,
  });
  logger.info('knowledge base started', {
    address: await server.start(),
    encrypted: tls !== undefined,
  });
  const tidy = async (): Promise<void> => {
    await systemClock.sleep(TIDY_MS, signal);
    for (const { job } of store.jobs()) {
      const freed = store.prune(job);
      if (freed > 0) logger.info('models that were overtaken are removed', { job, freed });
    }
  };
  const tidying = superviseLoop(
    'tidy',
    tidy,
    { clock: systemClock, random: seededRandom(Date.now()), logger },
    { baseMs: 1_000, capMs: 60_000, signal },
  );
  await untilStopped(signal);
  await tidying;
  server.close();
  store.close();
  return null;
}
