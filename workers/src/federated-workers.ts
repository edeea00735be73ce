import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import {
  choice,
  digestOf,
  fromNode,
  integer,
  type KeyPair,
  type Logger,
  readConfig,
  type SettingTable,
  ShoalError,
  text,
} from '@shoal/core';
import {
  AggregationServer,
  aggregatorTransport,
  FEDERATED_SETTINGS,
  type FederatedEnvironment,
  FederatedLearning,
  type FederationOptions,
  GroupAggregator,
  type GroupAggregatorOptions,
  localRuleOf,
  type Samples,
  SednaAggregationServer,
  TrainerModel,
} from '@shoal/lib';
import { untilStopped, type WorkerContext } from './process.ts';
import type { WorkerParts } from './worker-kinds.ts';

/** Takes part in a federation with the samples of `TRAIN_DATASET_URL`; starts from the job's model. */
export async function participateWorker(
  parts: Pick<WorkerParts, 'read'> & { readonly threads: number },
  { logger, signal }: WorkerContext,
): Promise<{ reason: string; rounds: number }> {
  const env = readConfig(FEDERATED_SETTINGS, process.env);
  const path = env.PRETRAINED_MODEL_URL || env.MODEL_URL;
  const learning = new FederatedLearning({ model: readModelBytes(path), threads: parts.threads });
  const samples = await parts.read(env.TRAIN_DATASET_URL);
  logger.info('taking part', { samples: samples.size });
  const { reason, rounds } = await learning.train(samples, { signal, logger });
  return { reason, rounds };
}

function readModelBytes(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw fromNode(error, `reading model ${path}`);
  }
}

interface AggregatorEnvironment extends FederatedEnvironment {
  readonly AGG_BIND_HOST: string;
  readonly AGG_BIND_PORT: number;
  readonly PARTICIPANTS_COUNT: number;
  readonly FEDERATED_OPTIONS: string;
  readonly FEDERATED_NAMES: string;
  readonly FEDERATED_PROTOCOL: 'shoal' | 'sedna';
  readonly FEDERATED_GROUP: string;
  readonly FEDERATED_CERTIFICATE: string;
  readonly FEDERATED_PRIVATE_KEY: string;
  readonly TEST_DATASET_URL: string;
  readonly FEDERATED_PAGE_PORT: number;
  readonly INPUT_SHAPE: string;
}

const AGGREGATOR_SETTINGS: SettingTable<AggregatorEnvironment> = {
  ...FEDERATED_SETTINGS,
  AGG_BIND_HOST: text('address to listen on', process.env['POD_IP'] ?? '0.0.0.0'),
  AGG_BIND_PORT: integer('port to listen on', { min: 0, max: 65_535 }, 7363),
  PARTICIPANTS_COUNT: integer('participants of the job', { min: 1, max: 1_000_000 }, 1),
  FEDERATED_OPTIONS: text('rounds, strategy, quorum and so on, as JSON', '{}'),
  FEDERATED_NAMES: text(
    'names of those who take part, with commas; empty: whoever has the token',
    '',
  ),
  FEDERATED_PROTOCOL: choice(
    'what participants speak: shoal, or sedna for its Python workers',
    ['shoal', 'sedna'],
    'shoal',
  ),
  FEDERATED_GROUP: text('name of the group this aggregator takes part for, above AGG_IP', ''),
  FEDERATED_CERTIFICATE: text('PEM of the certificate participants check', ''),
  FEDERATED_PRIVATE_KEY: text('PEM of its private key', ''),
  TEST_DATASET_URL: text('held-out samples that choose the best model', ''),
  FEDERATED_PAGE_PORT: integer(
    'port of a page in which browsers take part; 0 for none',
    { min: 0, max: 65_535 },
    0,
  ),
  INPUT_SHAPE: text('shape of one image, for the page', '1,28,28'),
};

/**
 * Where an aggregator keeps its rounds: beside the model, so that a restarted pod finds them. A job
 * made anew, or one with other options, has other rounds: the secret of the job is part of the name.
 */
function roundsFolder({
  MODEL_URL,
  JOB_NAME,
  FEDERATED_TOKEN,
  FEDERATED_OPTIONS,
  FEDERATED_GROUP,
  FEDERATED_INSTANCE,
}: AggregatorEnvironment): string {
  // The options of a group are its own share of those of the job.
  const group = FEDERATED_GROUP === '' ? '' : `${FEDERATED_GROUP} ${FEDERATED_INSTANCE}`;
  const instance = digestOf(`${FEDERATED_TOKEN} ${FEDERATED_OPTIONS}${group}`).slice(7, 19);
  return join(dirname(MODEL_URL), `.federated-${JOB_NAME}-${instance}`);
}

/** The server's side of the environment: where to listen, as whom. */
function listening(env: AggregatorEnvironment): {
  host: string;
  port: number;
  token: string;
  tls?: KeyPair;
} {
  const { FEDERATED_CERTIFICATE: certificate, FEDERATED_PRIVATE_KEY: privateKey } = env;
  return {
    host: env.AGG_BIND_HOST,
    port: env.AGG_BIND_PORT,
    token: env.FEDERATED_TOKEN,
    ...(certificate && privateKey ? { tls: { certificate, privateKey } } : {}),
  };
}

/** Rejects when the process is told to stop. */
function stoppedBy(signal: AbortSignal): Promise<never> {
  return new Promise<never>((_, reject) =>
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true }),
  );
}

/** Samples the aggregator scores models on; undefined when the job names none. */
async function heldOut(
  env: AggregatorEnvironment,
  read: WorkerParts['read'] | undefined,
): Promise<Samples | undefined> {
  if (!env.TEST_DATASET_URL) return undefined;
  if (read) return await read(env.TEST_DATASET_URL);
  throw new ShoalError(
    'failed_precondition',
    `the job has held-out samples (spec.evaluation.dataset), which this aggregator cannot read; start it with aggregateWorker(context, { read })`,
  );
}

/**
 * Aggregates a federation as `FEDERATED_OPTIONS` says; writes the trained model to `MODEL_URL`. With
 * `FEDERATED_GROUP` it aggregates a group, and takes part for it above.
 *
 * @param parts.read Reads held-out samples, where the job has some.
 */
export async function aggregateWorker(
  { logger, signal }: WorkerContext,
  parts: Partial<Pick<WorkerParts, 'read'>> = {},
): Promise<unknown> {
  const env = readConfig(AGGREGATOR_SETTINGS, process.env);
  const from = env.PRETRAINED_MODEL_URL || env.MODEL_URL;
  const options = JSON.parse(env.FEDERATED_OPTIONS) as Partial<FederationOptions>;
  if (env.FEDERATED_PROTOCOL === 'sedna')
    return await aggregateForSedna(env, options, { logger, signal });
  const samples = await heldOut(env, parts.read);
  const model = await TrainerModel.create({ model: readModelBytes(from), samples: NOTHING });
  if (env.FEDERATED_GROUP) return await aggregateGroup(env, model, { logger, signal });
  const server = new AggregationServer({
    rounds: 3,
    ...options,
    ...listening(env),
    job: env.JOB_NAME,
    participants: env.PARTICIPANTS_COUNT,
    dir: roundsFolder(env),
    initial: model.initial(),
    layout: model.layout,
    trained: model.trainedSize,
    names: namesOf(env),
    ...(samples ? { evaluate: (vector) => model.score(vector, samples) } : {}),
    logger,
  });
  const address = await server.start();
  logger.info('aggregating', { address, participants: env.PARTICIPANTS_COUNT });
  const page = await servePage(env, server, logger);
  try {
    const result = await Promise.race([server.done, stoppedBy(signal)]);
    const best = result.best?.model ?? result.model;
    writeModelBytes(env.MODEL_URL, model.deploy(best));
    const last = result.history.at(-1);
    // Participants that were told are gone within a moment; the others find the port closed.
    await new Promise((resolve) => setTimeout(resolve, 500));
    return { reason: result.reason, rounds: result.history.length, metrics: last?.metrics ?? {} };
  } finally {
    await page?.close();
    await server.close();
    await model.close();
  }
}

/** Who may take part: with a page whoever opens it, under a name of its own. */
function namesOf({
  FEDERATED_NAMES,
  FEDERATED_PAGE_PORT,
}: AggregatorEnvironment): readonly string[] | undefined {
  return FEDERATED_NAMES === '' || FEDERATED_PAGE_PORT > 0 ? undefined : FEDERATED_NAMES.split(',');
}

/** The page in which browsers take part, where the environment wants one. */
async function servePage(
  env: AggregatorEnvironment,
  aggregation: AggregationServer,
  logger: Logger,
): Promise<{ close(): Promise<void> } | undefined> {
  if (env.FEDERATED_PAGE_PORT === 0) return undefined;
  // Loaded by those who want it only: it brings a bundler.
  const { ParticipantPage } = await import('@shoal/browser');
  const page = new ParticipantPage({
    job: env.JOB_NAME,
    inputShape: env.INPUT_SHAPE.split(',').map(Number),
    local: localRuleOf(env.FEDERATED_STRATEGY),
    aggregation,
    model: readModelBytes(env.PRETRAINED_MODEL_URL || env.MODEL_URL),
    ...listening(env),
    port: env.FEDERATED_PAGE_PORT,
    logger,
  });
  const address = await page.start();
  logger.info('browsers take part here, with #token= and the job’s token behind it', { address });
  return page;
}

const NOTHING: Samples = {
  inputs: new Float32Array(),
  labels: new BigInt64Array(),
  shape: [],
  size: 0,
};

/** One group's aggregator: a server to its members, a participant to the one at `AGG_IP`. */
async function aggregateGroup(
  env: AggregatorEnvironment,
  model: TrainerModel,
  { logger, signal }: WorkerContext,
): Promise<unknown> {
  const { layout } = model;
  await model.close();
  const options = JSON.parse(env.FEDERATED_OPTIONS) as Pick<
    GroupAggregatorOptions,
    'quorum' | 'deadlineMs'
  >;
  const aggregator = new GroupAggregator({
    ...options,
    ...listening(env),
    job: env.JOB_NAME,
    group: env.FEDERATED_GROUP,
    members: env.PARTICIPANTS_COUNT,
    above: aggregatorTransport(env),
    dir: roundsFolder(env),
    layout,
    names: namesOf(env),
    logger,
  });
  logger.info('aggregating a group', { address: await aggregator.start() });
  try {
    const { reason, rounds } = await aggregator.run(signal);
    await new Promise((resolve) => setTimeout(resolve, 500));
    return { reason, rounds };
  } finally {
    await aggregator.close();
  }
}

/** Aggregates for workers built on Sedna's Python library; they keep the model. */
async function aggregateForSedna(
  env: AggregatorEnvironment,
  options: Partial<FederationOptions>,
  { logger, signal }: WorkerContext,
): Promise<{ rounds: number }> {
  const { rounds = 3, strategy, privacy, quorum, deadlineMs } = options;
  if (privacy || (strategy && strategy.name !== 'FedAvg'))
    throw new ShoalError(
      'unsupported',
      `Sedna's protocol knows federated averaging and nothing else: spec.${privacy ? 'privacy' : 'strategy'} needs participants that speak Shoal's`,
    );
  const server = new SednaAggregationServer({
    rounds,
    ...(quorum === undefined ? {} : { quorum }),
    ...(deadlineMs === undefined ? {} : { deadlineMs }),
    participants: env.PARTICIPANTS_COUNT,
    host: env.AGG_BIND_HOST,
    port: env.AGG_BIND_PORT,
    logger,
  });
  logger.info('aggregating for Sedna workers', { url: await server.start() });
  try {
    const done = await Promise.race([server.done, untilStopped(signal).then(() => 0)]);
    return { rounds: done };
  } finally {
    await server.close();
  }
}

function writeModelBytes(path: string, bytes: Uint8Array): void {
  try {
    writeFileSync(`${path}.tmp`, bytes);
    renameSync(`${path}.tmp`, path);
  } catch (error) {
    throw fromNode(error, `writing model ${path}`);
  }
}
