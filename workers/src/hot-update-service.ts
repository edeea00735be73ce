import {
  integer,
  type Logger,
  readConfig,
  type SettingTable,
  systemClock,
  text,
} from '@shoal/core';
import {
  type Estimator,
  followModel,
  Reporter,
  WORKER_SETTINGS,
  type WorkerEnvironment,
} from '@shoal/lib';

interface HotUpdateEnvironment extends WorkerEnvironment {
  readonly MODEL_HOT_UPDATE_CONFIG: string;
  readonly MODEL_POLL_PERIOD_SECONDS: number;
}

const SETTINGS: SettingTable<HotUpdateEnvironment> = {
  ...WORKER_SETTINGS,
  MODEL_HOT_UPDATE_CONFIG: text('file the local controller points at new models', ''),
  MODEL_POLL_PERIOD_SECONDS: integer('seconds between looks at it', { min: 1, max: 86_400 }, 60),
};

export interface ServedModelOptions {
  readonly create: () => Estimator;
  /** Refuses a model by throwing. */
  readonly selfTest: (estimator: Estimator) => Promise<void>;
  readonly logger: Logger;
  readonly signal: AbortSignal;
  readonly source?: Readonly<Record<string, string | undefined>>;
}

/** The model a service answers with: loaded from `MODEL_URL`, replaced between two requests. */
export class ServedModel {
  #current: Estimator;
  #inUse = 0;
  #retired: Estimator[] = [];
  /** Models taken since the start. */
  swaps = 0;

  private constructor(first: Estimator) {
    this.#current = first;
  }

  static async open(options: ServedModelOptions): Promise<ServedModel> {
    const env = readConfig(SETTINGS, options.source ?? process.env);
    const first = options.create();
    await first.load(env.MODEL_URL);
    await options.selfTest(first);
    const served = new ServedModel(first);
    if (env.MODEL_HOT_UPDATE_CONFIG !== '') {
      const reporter = new Reporter({
        server: env.LC_SERVER,
        workerName: env.WORKER_NAME,
        namespace: env.NAMESPACE,
        ownerName: env.JOB_NAME,
        ownerKind: 'incrementallearningjob',
      });
      void followModel({
        ...options,
        reporter,
        clock: systemClock,
        configPath: env.MODEL_HOT_UPDATE_CONFIG,
        periodMs: env.MODEL_POLL_PERIOD_SECONDS * 1000,
        onSwap: (next) => served.#swap(next),
      });
    }
    return served;
  }

  #swap(next: Estimator): void {
    this.#retired.push(this.#current);
    this.#current = next;
    this.swaps++;
    this.#collect();
  }

  /** Old models go once no request uses one any more. */
  #collect(): void {
    if (this.#inUse > 0) return;
    for (const old of this.#retired.splice(0)) void old.close();
  }

  /** Uses the current model; a swap meanwhile does not disturb the call. */
  async use<T>(body: (estimator: Estimator) => Promise<T>): Promise<T> {
    this.#inUse++;
    try {
      return await body(this.#current);
    } finally {
      this.#inUse--;
      this.#collect();
    }
  }
}
