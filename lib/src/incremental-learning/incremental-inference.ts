import {
  type Clock,
  isJsonObject,
  type JsonObject,
  type Logger,
  messageOf,
  readConfig,
  type SettingTable,
  silentLogger,
  systemClock,
  text,
} from '@shoal/core';
import type { DriftDetector } from '../drift/detector.ts';
import { driftDetector } from '../drift/drift-detector.ts';
import { argMax } from '../estimator/classification-metrics.ts';
import type { Predictions } from '../estimator/estimator.ts';
import { configureMiner } from '../hard-example/configured-miner.ts';
import type { HardExampleMiner, Verdict } from '../hard-example/miner.ts';
import { Reporter } from '../report/local-controller.ts';
import {
  parseMinerParameters,
  WORKER_SETTINGS,
  type WorkerEnvironment,
} from '../report/worker-environment.ts';
import { HardExampleSink } from './hard-example-sink.ts';

interface InferenceEnvironment extends WorkerEnvironment {
  readonly HARD_EXAMPLES: string;
  readonly DRIFT_NAME: string;
  readonly DRIFT_PARAMETERS: string;
}

const SETTINGS: SettingTable<InferenceEnvironment> = {
  ...WORKER_SETTINGS,
  HARD_EXAMPLES: text('true: hard examples are kept and sent to the cloud', ''),
  DRIFT_NAME: text('drift detection on the confidence: PageHinkley or ADWIN; empty for none', ''),
  DRIFT_PARAMETERS: text('its parameters, JSON [{"key", "value"}]', ''),
};

export interface IncrementalInferenceOptions {
  readonly miner: HardExampleMiner;
  readonly drift?: DriftDetector;
  readonly sink?: HardExampleSink;
  readonly reporter?: Reporter;
  /** Between reports. Default 30,000. */
  readonly reportMs?: number;
  readonly clock?: Clock;
  readonly logger?: Logger;
}

/** What one inference comes to. */
export interface IncrementalResult extends Verdict {
  /** The likeliest class. */
  readonly label: number;
}

export interface IncrementalInferenceMetrics {
  readonly inferences: number;
  readonly hardExamples: number;
  readonly hardRatio: number;
  readonly driftAlarms: number;
  readonly collectedExamples: number;
  readonly droppedExamples: number;
}

/** Alarms told; more say nothing more. */
const KEPT_ALARMS = 20;
const LAST_REPORT_MS = 2_000;

/**
 * The serving side of incremental learning, inside any service: judges every answer, keeps hard
 * examples for the cloud, watches for drift, and reports. Without a cluster (`LC_SERVER` unset) it
 * judges and watches all the same. Close it when done.
 */
export class IncrementalInference {
  readonly #options: IncrementalInferenceOptions;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #timer: NodeJS.Timeout | undefined;
  #inferences = 0;
  #hard = 0;
  #collected = 0;
  #alarms: string[] = [];
  #alarmCount = 0;
  #reporting: Promise<void> | undefined;

  constructor(options: IncrementalInferenceOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#logger = options.logger ?? silentLogger;
    if (!options.reporter) return;
    this.#timer = setInterval(() => this.#report(), options.reportMs ?? 30_000);
    this.#timer.unref();
  }

  /** As the global manager configures a serving worker: `HEM_*`, `DRIFT_*`, `HARD_EXAMPLES`, `LC_SERVER`. */
  static fromEnvironment(
    options: {
      readonly source?: Readonly<Record<string, string | undefined>>;
      readonly logger?: Logger;
    } = {},
  ): IncrementalInference {
    const env = readConfig(SETTINGS, options.source ?? process.env);
    const { LC_SERVER: server, NAMESPACE: namespace, JOB_NAME, WORKER_NAME: workerName } = env;
    const logger = options.logger ?? silentLogger;
    const parameters = parseMinerParameters(env.DRIFT_PARAMETERS);
    return new IncrementalInference({
      miner: configureMiner(
        env.HEM_NAME || 'CrossEntropy',
        parseMinerParameters(env.HEM_PARAMETERS),
      ),
      logger,
      reportMs: env.LC_PERIOD * 1000,
      ...(env.DRIFT_NAME ? { drift: driftDetector(env.DRIFT_NAME, parameters) } : {}),
      ...(server && env.HARD_EXAMPLES === 'true'
        ? {
            sink: new HardExampleSink({ server, namespace, jobName: JOB_NAME, workerName, logger }),
          }
        : {}),
      ...(server
        ? {
            reporter: new Reporter({
              server,
              workerName,
              namespace,
              ownerName: JOB_NAME,
              ownerKind: 'incrementallearningjob',
            }),
          }
        : {}),
    });
  }

  get metrics(): IncrementalInferenceMetrics {
    return {
      inferences: this.#inferences,
      hardExamples: this.#hard,
      hardRatio: this.#inferences === 0 ? 0 : this.#hard / this.#inferences,
      driftAlarms: this.#alarmCount,
      collectedExamples: this.#collected,
      droppedExamples: this.#options.sink?.dropped ?? 0,
    };
  }

  /**
   * Judges the answer to one sample.
   *
   * @param predictions Of a batch of one.
   * @param data The sample as a line of the dataset without its label, for example `{image}`; asked
   *   for only when the sample is hard and kept.
   */
  observe(predictions: Predictions, data?: () => JsonObject): IncrementalResult {
    const { probabilities, logits, classes } = predictions;
    const verdict = this.#options.miner.judge({
      kind: 'probabilities',
      probabilities,
      ...(logits ? { logits } : {}),
    });
    const label = argMax(probabilities, 0, classes);
    this.#inferences++;
    if (this.#options.drift?.add(probabilities[label] ?? 0)) this.#alarm();
    if (verdict.hard) {
      this.#hard++;
      this.#keep(predictions, { label, ...verdict }, data);
    }
    return { label, ...verdict };
  }

  #keep(
    { probabilities }: Predictions,
    result: IncrementalResult,
    data: (() => JsonObject) | undefined,
  ): void {
    const { sink } = this.#options;
    if (!sink || !data) return;
    const line = data();
    if (!isJsonObject(line)) return;
    this.#collected++;
    sink.add({
      data: line,
      predicted: result.label,
      probabilities: Array.from(probabilities, (p) => Number(p.toFixed(4))),
      score: result.score,
      threshold: result.threshold,
    });
  }

  #alarm(): void {
    this.#alarmCount++;
    this.#alarms = [...this.#alarms, new Date(this.#clock.now()).toISOString()].slice(-KEPT_ALARMS);
    this.#logger.warn('the confidence of the model has fallen', { alarms: this.#alarmCount });
    this.#report();
  }

  /** Tells the local controller, one report at a time. */
  #report(signal?: AbortSignal): void {
    const { reporter } = this.#options;
    if (!reporter || this.#reporting) return;
    const told = this.#alarmCount;
    const { inferences, hardExamples, driftAlarms, collectedExamples, droppedExamples } =
      this.metrics;
    const ownerInfo = {
      inferenceNumber: inferences,
      hardExampleNumber: hardExamples,
      driftAlarmNumber: driftAlarms,
      collectedNumber: collectedExamples,
      droppedNumber: droppedExamples,
      alarms: this.#alarms,
    };
    this.#reporting = reporter
      .send({ kind: 'inference', status: 'running', ownerInfo }, signal)
      .catch((error: unknown) =>
        this.#logger.warn('report not taken', { reason: messageOf(error) }),
      )
      .finally(() => {
        this.#reporting = undefined;
        if (this.#alarmCount > told) this.#report(signal);
      });
  }

  /** Sends what waits and ends. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#options.sink?.close();
    this.#report(AbortSignal.timeout(LAST_REPORT_MS));
    await this.#reporting;
  }
}
