import { integer, messageOf, readConfig, type SettingTable, text } from '@shoal/core';
import { argMax } from '../estimator/classification-metrics.ts';
import type { Estimator } from '../estimator/estimator.ts';
import { configureMiner } from '../hard-example/configured-miner.ts';
import type { HardExampleMiner } from '../hard-example/miner.ts';
import { Reporter } from '../report/local-controller.ts';
import {
  parseMinerParameters,
  WORKER_SETTINGS,
  type WorkerEnvironment,
} from '../report/worker-environment.ts';
import { withBreaker } from './circuit-breaker.ts';
import { type CloudModel, createCloudClient } from './cloud-client.ts';

/** One inference, and how it came about. */
export interface JointInferenceResult {
  /** Index of the most probable class. */
  readonly label: number;
  readonly probabilities: readonly number[];
  /** Whose answer this is. */
  readonly source: 'edge' | 'cloud';
  readonly hard: boolean;
  /** The miner's score of the edge's answer, and the threshold it was held against. */
  readonly score: number;
  readonly threshold: number;
  readonly latencyMs: number;
  /** The edge's own answer, also when the cloud's was used. */
  readonly edgeLabel: number;
  /** Why a hard sample was answered at the edge all the same. */
  readonly fallback?: string;
}

/** Counts since the start; every sample counts once. */
export interface JointInferenceMetrics {
  readonly inferenceNumber: number;
  readonly hardExampleNumber: number;
  /** Samples answered by the cloud. */
  readonly uploadNumber: number;
  /** uploadNumber / inferenceNumber; 0 before the first sample. */
  readonly uploadCloudRatio: number;
  /** Hard samples that the edge had to answer because the cloud gave none. */
  readonly fallbackNumber: number;
  /** Share of uploads on which both models agree. */
  readonly agreement: number;
}

export interface JointInferenceOptions {
  readonly estimator: Estimator;
  readonly miner: HardExampleMiner;
  /** Without one every sample is answered at the edge. */
  readonly cloud?: CloudModel;
  readonly reporter?: Reporter;
  /** Milliseconds between reports. Default 30 000. */
  readonly reportPeriodMs?: number;
  /** `edge-result` answers a hard sample at the edge when the cloud is away; `error` throws. */
  readonly fallback?: 'edge-result' | 'error';
}

interface JointEnvironment extends WorkerEnvironment {
  readonly BIG_MODEL_IP: string;
  readonly BIG_MODEL_PORT: string;
  readonly CLOUD_DEADLINE_MS: number;
}

const JOINT_SETTINGS: SettingTable<JointEnvironment> = {
  ...WORKER_SETTINGS,
  BIG_MODEL_IP: text('host of the worker in the cloud; empty: edge only', ''),
  BIG_MODEL_PORT: text('its port', '5000'),
  CLOUD_DEADLINE_MS: integer('longest wait for its answer', { min: 1, max: 600_000 }, 2_000),
};

/**
 * Joint inference: the small model answers; what it finds hard goes to the big one.
 *
 * @example
 * const joint = JointInference.fromEnvironment(estimator);
 * const { label, source } = await joint.inference(pixels);
 */
export class JointInference {
  readonly #options: JointInferenceOptions;
  readonly #counts = { inferences: 0, hard: 0, uploads: 0, fallbacks: 0, agreed: 0 };
  readonly #timer: NodeJS.Timeout | undefined;
  #reported = 0;

  constructor(options: JointInferenceOptions) {
    this.#options = options;
    if (options.reporter) {
      this.#timer = setInterval(() => void this.report(), options.reportPeriodMs ?? 30_000);
      this.#timer.unref();
    }
  }

  /**
   * Reads miner, cloud worker and local controller from the worker's environment. Works without a
   * cluster: no `BIG_MODEL_IP` means edge only, no `LC_SERVER` means no reports.
   */
  static fromEnvironment(
    estimator: Estimator,
    source: Readonly<Record<string, string | undefined>> = process.env,
  ): JointInference {
    const env = readConfig(JOINT_SETTINGS, source);
    const miner = configureMiner(
      env.HEM_NAME || 'CrossEntropy',
      parseMinerParameters(env.HEM_PARAMETERS),
    );
    const url = `http://${env.BIG_MODEL_IP}:${env.BIG_MODEL_PORT}`;
    return new JointInference({
      estimator,
      miner,
      ...(env.BIG_MODEL_IP
        ? {
            cloud: withBreaker(
              createCloudClient({
                url,
                serviceName: env.JOB_NAME,
                deadlineMs: env.CLOUD_DEADLINE_MS,
              }),
            ),
          }
        : {}),
      reporter: new Reporter({
        server: env.LC_SERVER,
        workerName: env.WORKER_NAME,
        namespace: env.NAMESPACE,
        ownerName: env.JOB_NAME,
        ownerKind: 'jointinferenceservice',
      }),
      reportPeriodMs: env.LC_PERIOD * 1000,
    });
  }

  /**
   * Answers one sample.
   *
   * @param sample Row-major values of one sample.
   * @throws ShoalError `invalid_argument` for a sample of the wrong size; the cloud's error when
   *   `fallback` is `error`.
   */
  async inference(sample: Float32Array): Promise<JointInferenceResult> {
    const startedAt = performance.now();
    const { estimator, miner, cloud } = this.#options;
    const { probabilities, logits } = await estimator.predict(sample, 1);
    const said = { kind: 'probabilities', probabilities } as const;
    const verdict = miner.judge(logits ? { ...said, logits } : said);
    const edge = Array.from(probabilities);
    const edgeLabel = argMax(probabilities, 0, probabilities.length);
    this.#counts.inferences++;
    if (verdict.hard) this.#counts.hard++;
    const answer = verdict.hard && cloud ? await this.#ask(cloud, sample) : undefined;
    const final = answer && 'row' in answer ? answer.row : edge;
    const label = argMax(Float32Array.from(final), 0, final.length);
    if (answer && 'row' in answer && label === edgeLabel) this.#counts.agreed++;
    return {
      label,
      probabilities: final,
      edgeLabel,
      ...verdict,
      source: answer && 'row' in answer ? 'cloud' : 'edge',
      latencyMs: performance.now() - startedAt,
      ...(answer && 'why' in answer ? { fallback: answer.why } : {}),
    };
  }

  async #ask(
    cloud: CloudModel,
    sample: Float32Array,
  ): Promise<{ row: readonly number[] } | { why: string }> {
    try {
      const row = await cloud.infer(sample);
      this.#counts.uploads++;
      return { row };
    } catch (error) {
      if (this.#options.fallback === 'error') throw error;
      this.#counts.fallbacks++;
      return { why: messageOf(error) };
    }
  }

  get metrics(): JointInferenceMetrics {
    const { inferences, hard, uploads, fallbacks, agreed } = this.#counts;
    return {
      inferenceNumber: inferences,
      hardExampleNumber: hard,
      uploadNumber: uploads,
      uploadCloudRatio: inferences === 0 ? 0 : uploads / inferences,
      fallbackNumber: fallbacks,
      agreement: uploads === 0 ? 1 : agreed / uploads,
    };
  }

  /** Sends the counts to the local controller, when there is something new to say. */
  async report(): Promise<void> {
    const { reporter } = this.#options;
    const { metrics } = this;
    if (!reporter || metrics.inferenceNumber === this.#reported) return;
    this.#reported = metrics.inferenceNumber;
    try {
      await reporter.send({
        kind: 'inference',
        results: [],
        ownerInfo: { ...metrics, updateTime: new Date().toISOString() },
      });
    } catch {
      this.#reported = -1; // the next period tries again; inference goes on
    }
  }

  /** Stops reporting, after a last report, and frees the model. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.report();
    await this.#options.estimator.close();
  }
}
