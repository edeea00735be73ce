import { dirname, join } from 'node:path';
import {
  digestOf,
  integer,
  isJsonObject,
  messageOf,
  readConfig,
  type SettingTable,
  ShoalError,
  text,
} from '@shoal/core';
import type { Samples } from '../data/samples.ts';
import { Reporter } from '../report/local-controller.ts';
import { WORKER_SETTINGS, type WorkerEnvironment } from '../report/worker-environment.ts';
import type { LocalTask } from './federated-model.ts';
import { fileProgress, removeProgress } from './participant/file-progress.ts';
import type { FrameTransport } from './participant/frame-stream.ts';
import { nodePlatform } from './participant/grpc-transport.ts';
import {
  Participant,
  type ParticipantOptions,
  type ParticipantResult,
} from './participant/participant.ts';
import type { ProgressStore } from './participant/progress.ts';
import { socketTransport } from './participant/socket-transport.ts';
import type { SigningIdentity } from './privacy/secure-aggregation/identity.ts';
import type { RoundSummary } from './round-summary.ts';
import { createStrategy } from './strategies/strategies.ts';
import type { StrategyParameters } from './strategy.ts';
import { type LocalTraining, TrainerModel, type TrainerModelOptions } from './trainer-model.ts';

export interface FederatedEnvironment extends WorkerEnvironment {
  /** Where the aggregator listens. */
  readonly AGG_IP: string;
  readonly AGG_PORT: number;
  readonly TRAIN_DATASET_URL: string;
  /** The model everyone starts from; default `MODEL_URL`. */
  readonly PRETRAINED_MODEL_URL: string;
  /** Secret of the job, which the aggregator asks for. */
  readonly FEDERATED_TOKEN: string;
  /** PEM of the authority of the aggregator's certificate. */
  readonly FEDERATED_AUTHORITY: string;
  readonly FEDERATED_STRATEGY: string;
  /** Another one where the job's options are others: what was kept of a federation is of no use to the next. */
  readonly FEDERATED_INSTANCE: string;
  /** `{epochs?, batchSize?, learningRate?}` as JSON: how this participant trains where it differs. */
  readonly LOCAL_TRAINING: string;
  /** What the participant signs with, as JSON; given where changes are only added up masked. */
  readonly FEDERATED_IDENTITY: string;
}

export const FEDERATED_SETTINGS: SettingTable<FederatedEnvironment> = {
  ...WORKER_SETTINGS,
  AGG_IP: text('host of the aggregator', '127.0.0.1'),
  AGG_PORT: integer('port of the aggregator', { min: 1, max: 65_535 }, 7363),
  TRAIN_DATASET_URL: text('samples to train on', ''),
  PRETRAINED_MODEL_URL: text('model everyone starts from', ''),
  FEDERATED_TOKEN: text('secret of the job', ''),
  FEDERATED_AUTHORITY: text('PEM of the aggregator’s authority', ''),
  FEDERATED_STRATEGY: text('strategy as JSON {name, parameters}', '{"name":"FedAvg"}'),
  FEDERATED_INSTANCE: text('which federation of the job this is', ''),
  LOCAL_TRAINING: text('local training of this participant as JSON', ''),
  FEDERATED_IDENTITY: text('signing key and roster as JSON', ''),
};

/** Name in the certificates of a job's aggregators, wherever they run. */
const AGGREGATOR_NAME = 'federation.shoal.dev';

/** The way to the aggregator a worker's environment names. */
export function aggregatorTransport(
  env: Pick<FederatedEnvironment, 'AGG_IP' | 'AGG_PORT' | 'FEDERATED_AUTHORITY'>,
): FrameTransport {
  const { AGG_IP, AGG_PORT, FEDERATED_AUTHORITY: authority } = env;
  const tls = authority ? { authority, serverName: AGGREGATOR_NAME } : {};
  return socketTransport(`${AGG_IP}:${AGG_PORT}`, tls);
}

/** What a strategy, named as in the environment, asks of local training. */
export function localRuleOf(json: string): Pick<LocalTask, 'proximal' | 'controlVariates'> {
  const { name, parameters } = JSON.parse(json) as {
    name: string;
    parameters?: StrategyParameters;
  };
  const { proximal = 0, controlVariates = false } = createStrategy(name, parameters).local;
  return { proximal, controlVariates };
}

/**
 * Local training of a participant, as its environment has it.
 *
 * @throws ShoalError `invalid_argument` for a key it does not have or a value out of range.
 */
export function localTrainingOf(json: string): LocalTraining {
  if (json === '') return {};
  const refused = (why: string): never => {
    throw new ShoalError('invalid_argument', `LOCAL_TRAINING: ${why}`);
  };
  let given: unknown;
  try {
    given = JSON.parse(json);
  } catch {
    return refused(`"${json}" is not JSON`);
  }
  if (!isJsonObject(given)) return refused('must be an object');
  const entries = Object.entries(given).map(([key, value]) => {
    const number = Number(value);
    if (!['epochs', 'batchSize', 'learningRate'].includes(key))
      refused(`has "${key}"; known are epochs, batchSize and learningRate`);
    const isWhole = key === 'learningRate' || Number.isInteger(number);
    if (!(number > 0) || !Number.isFinite(number) || !isWhole)
      refused(`${key} must be ${key === 'learningRate' ? '' : 'a whole number '}> 0, got ${value}`);
    return [key, number] as const;
  });
  return Object.fromEntries(entries);
}

export type FederatedLearningOptions = Omit<TrainerModelOptions, 'samples' | 'validation'>;

/**
 * Federated learning from inside a worker: takes part in the federation the environment names,
 * trains on data that stays here, and reports every round to the local controller.
 *
 * @example
 * const result = await new FederatedLearning({ model }).train(samples, { signal });
 */
export class FederatedLearning {
  readonly environment: FederatedEnvironment;
  readonly #options: FederatedLearningOptions;
  readonly #reporter: Reporter;

  constructor(
    options: FederatedLearningOptions,
    source: Readonly<Record<string, string | undefined>> = process.env,
  ) {
    this.environment = readConfig(FEDERATED_SETTINGS, source);
    this.#options = options;
    const { LC_SERVER, WORKER_NAME, NAMESPACE, JOB_NAME } = this.environment;
    this.#reporter = new Reporter({
      server: LC_SERVER,
      workerName: WORKER_NAME,
      namespace: NAMESPACE,
      ownerName: JOB_NAME,
      ownerKind: 'federatedlearningjob',
    });
  }

  /** The way to the aggregator, and who this is, from the environment. */
  #connection(): ParticipantOptions {
    const { environment: env } = this;
    const { FEDERATED_IDENTITY: identity } = env;
    return {
      transport: aggregatorTransport(env),
      platform: nodePlatform,
      job: env.JOB_NAME,
      participant: env.WORKER_NAME,
      token: env.FEDERATED_TOKEN,
      ...(identity ? { identity: JSON.parse(identity) as SigningIdentity } : {}),
    };
  }

  /** Takes part until the federation ends. @throws ShoalError when the aggregator refuses for good. */
  async train(
    samples: Samples,
    at: {
      readonly signal: AbortSignal;
      readonly validation?: Samples;
      readonly logger?: ParticipantOptions['logger'];
    },
  ): Promise<ParticipantResult> {
    const { environment: env } = this;
    const model = await TrainerModel.create(
      {
        localTraining: localTrainingOf(env.LOCAL_TRAINING),
        ...this.#options,
        samples,
        ...(at.validation ? { validation: at.validation } : {}),
      },
      localRuleOf(env.FEDERATED_STRATEGY),
    );
    const { report, told } = this.#reports(samples.size);
    const kept = this.#progress(at.logger);
    const participant = new Participant(
      {
        ...this.#connection(),
        ...(at.logger ? { logger: at.logger } : {}),
        ...(kept ? { progress: kept.store } : {}),
        ...told,
      },
      model,
    );
    try {
      const result = await participant.run(at.signal);
      await report('completed', { round: result.rounds, history: result.history });
      kept?.remove();
      return result;
    } finally {
      await model.close();
    }
  }

  /** What the local controller is told, and when. */
  #reports(samples: number): {
    readonly report: (status: 'running' | 'completed', at: Reported) => Promise<void>;
    readonly told: Pick<ParticipantOptions, 'onNotice' | 'onRefused' | 'onAccepted' | 'onRound'>;
  } {
    const startTime = new Date().toISOString();
    let last: Reported = { round: 0, history: [] };
    let refused = { round: 0, reason: '' };
    const report = (
      status: 'running' | 'completed',
      { round, history }: Reported,
      waiting = '',
    ): Promise<void> => {
      // Of the round it works on; an older refusal is history.
      const isNews = status === 'running' && refused.round >= round && refused.reason !== '';
      const ownerInfo = {
        currentRound: round,
        sampleCount: samples,
        startTime,
        updateTime: new Date().toISOString(),
        rounds: history.slice(-50),
        waiting,
        message: isNews ? `round ${refused.round}: ${refused.reason}` : '',
      };
      return this.#reporter.send({ kind: 'train', status, ownerInfo });
    };
    const running = (waiting?: string): void => {
      report('running', last, waiting).catch(() => undefined);
    };
    const told = {
      onNotice: running,
      onRefused: (round: number, reason: string) => {
        refused = { round, reason };
        running();
      },
      onAccepted: (round: number) => {
        if (round >= refused.round) refused = { round: 0, reason: '' };
      },
      onRound: (round: number, _metrics: unknown, history: readonly RoundSummary[]) => {
        last = { round, history };
        running();
      },
    };
    return { report, told };
  }

  /** Beside the model, so that a restarted pod finds it; a job made anew, or with other options, has another. */
  #progress(
    logger: ParticipantOptions['logger'],
  ): { readonly store: ProgressStore; readonly remove: () => void } | undefined {
    const { MODEL_URL, JOB_NAME, WORKER_NAME } = this.environment;
    if (MODEL_URL === '') return undefined;
    const { FEDERATED_TOKEN, FEDERATED_INSTANCE } = this.environment;
    const instance = digestOf(`${FEDERATED_TOKEN} ${FEDERATED_INSTANCE}`).slice(7, 19);
    const name = `.participant-${JOB_NAME}-${WORKER_NAME}-${instance}`;
    const dir = join(dirname(MODEL_URL), name);
    try {
      return { store: fileProgress(dir), remove: () => removeProgress(dir) };
    } catch (error) {
      logger?.warn('killed, this participant would begin anew', { reason: messageOf(error) });
      return undefined;
    }
  }
}

interface Reported {
  readonly round: number;
  readonly history: readonly RoundSummary[];
}
