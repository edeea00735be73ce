import {
  choice,
  integer,
  isShoalError,
  messageOf,
  readConfig,
  type SettingTable,
  ShoalError,
  text,
} from '@shoal/core';
import { argMax } from '../estimator/classification-metrics.ts';
import { type Box, boxAgreement, type Detector, isDetector } from '../estimator/detection.ts';
import type { Estimator } from '../estimator/estimator.ts';
import { configureMiner } from '../hard-example/configured-miner.ts';
import type { EdgeResult, HardExampleMiner, Verdict } from '../hard-example/miner.ts';
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
  /** Index of the most probable class; of a detector that of its surest box, −1 when it found none. */
  readonly label: number;
  /** Of the classes; empty for a detector. */
  readonly probabilities: readonly number[];
  /** What a detector found, the surest first. */
  readonly boxes?: readonly Box[];
  /** Whose answer this is. */
  readonly source: 'edge' | 'cloud';
  /** Which model of the edge answered or was asked last, from 0; more than 0 in a cascade. */
  readonly tier: number;
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
  /** Share of uploads on which both models agree; of samples the edge was asked about as well. */
  readonly agreement: number;
  /** Samples kept for the cloud while it is away (`fallback: 'queue'`), and those given up since. */
  readonly queuedNumber: number;
  readonly droppedNumber: number;
  /** Bytes of samples that were answered at the edge. */
  readonly bytesSaved: number;
  /** Mean milliseconds until an answer, by who gave it; 0 before the first. */
  readonly edgeLatencyMs: number;
  readonly cloudLatencyMs: number;
}

/** A model at the edge, and who decides whether its answer will do. */
export interface EdgeTier {
  readonly estimator: Estimator;
  readonly miner: HardExampleMiner;
}

export interface JointInferenceOptions {
  readonly estimator: Estimator;
  readonly miner: HardExampleMiner;
  /** Without one every sample is answered at the edge. */
  readonly cloud?: CloudModel;
  readonly reporter?: Reporter;
  /** Milliseconds between reports. Default 30 000. */
  readonly reportPeriodMs?: number;
  /**
   * `inference-then-mining` asks the edge and sends up what is hard; `mining-then-inference` asks `route`
   * first, and the edge only where that says it will do. Default the former.
   */
  readonly mode?: MiningMode;
  /** Judges a sample before any model has seen it. */
  readonly route?: (sample: Float32Array) => Verdict;
  /** Larger models at the edge, asked one after another before the cloud is. */
  readonly cascade?: readonly EdgeTier[];
  /**
   * When the cloud is away: `edge-result` answers a hard sample at the edge, `queue` does so too and
   * asks the cloud again later, `error` throws. Default `edge-result`.
   */
  readonly fallback?: 'edge-result' | 'queue' | 'error';
  /** Told what the cloud says of a queued sample. */
  readonly onLate?: (late: LateAnswer) => void;
  /** Samples that may be queued; the oldest are given up. Default 1,000. */
  readonly queueSize?: number;
}

export const MINING_MODES = ['inference-then-mining', 'mining-then-inference'] as const;
export type MiningMode = (typeof MINING_MODES)[number];

/** The cloud's answer to a sample that was answered at the edge meanwhile. */
export interface LateAnswer {
  readonly sample: Float32Array;
  readonly edgeLabel: number;
  readonly probabilities: readonly number[];
  readonly boxes?: readonly Box[];
}

/** What a model said: class probabilities, or boxes. */
interface Said {
  readonly row: readonly number[];
  readonly boxes?: readonly Box[];
  readonly label: number;
}

/** What the edge said. */
interface EdgeAnswer extends Said {
  readonly verdict: Verdict;
  readonly tier: number;
}

interface Queued {
  readonly sample: Float32Array;
  readonly edgeLabel: number;
}

const RETRY_MS = 1_000;

interface JointEnvironment extends WorkerEnvironment {
  readonly BIG_MODEL_IP: string;
  readonly BIG_MODEL_PORT: string;
  readonly BIG_MODEL_URL: string;
  readonly CLOUD_DEADLINE_MS: number;
  readonly MINING_MODE: MiningMode;
  readonly CLOUD_FALLBACK: 'edge-result' | 'queue' | 'error';
}

const JOINT_SETTINGS: SettingTable<JointEnvironment> = {
  ...WORKER_SETTINGS,
  BIG_MODEL_IP: text('host of the worker in the cloud; empty: edge only', ''),
  BIG_MODEL_PORT: text('its port', '5000'),
  BIG_MODEL_URL: text('its whole address, where that goes through the local controller', ''),
  CLOUD_DEADLINE_MS: integer('longest wait for its answer', { min: 1, max: 600_000 }, 2_000),
  MINING_MODE: choice('what comes first', MINING_MODES, 'inference-then-mining'),
  CLOUD_FALLBACK: choice(
    'what answers a hard sample while the cloud is away',
    ['edge-result', 'queue', 'error'],
    'edge-result',
  ),
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
  readonly #counts = {
    inferences: 0,
    hard: 0,
    uploads: 0,
    fallbacks: 0,
    agreed: 0,
    compared: 0,
    dropped: 0,
    bytesSaved: 0,
    edgeAnswers: 0,
    edgeMs: 0,
    cloudAnswers: 0,
    cloudMs: 0,
  };
  readonly #timers: NodeJS.Timeout[] = [];
  /** Classes of the edge's answers, once it has given one. */
  #classes: number | undefined;
  #queue: Queued[] = [];
  #draining = false;
  #reported = 0;

  /** @throws ShoalError `invalid_argument` for a mode that lacks what it needs. */
  constructor(options: JointInferenceOptions) {
    this.#options = options;
    if (options.mode === 'mining-then-inference' && !options.route)
      throw new ShoalError(
        'invalid_argument',
        'mining-then-inference needs route, which judges a sample before a model has seen it',
      );
    const every = (ms: number, body: () => Promise<void>): void => {
      const timer = setInterval(() => void body(), ms);
      timer.unref();
      this.#timers.push(timer);
    };
    if (options.reporter) every(options.reportPeriodMs ?? 30_000, async () => await this.report());
    if (options.fallback === 'queue') every(RETRY_MS, async () => await this.drain());
  }

  /**
   * Reads miner, cloud worker and local controller from the worker's environment. Works without a
   * cluster: no `BIG_MODEL_IP` means edge only, no `LC_SERVER` means no reports.
   */
  static fromEnvironment(
    estimator: Estimator,
    source: Readonly<Record<string, string | undefined>> = process.env,
    more: Pick<JointInferenceOptions, 'route' | 'cascade' | 'onLate'> = {},
  ): JointInference {
    const env = readConfig(JOINT_SETTINGS, source);
    const miner = configureMiner(
      env.HEM_NAME || 'CrossEntropy',
      parseMinerParameters(env.HEM_PARAMETERS),
    );
    return new JointInference({
      ...more,
      estimator,
      miner,
      mode: env.MINING_MODE,
      fallback: env.CLOUD_FALLBACK,
      ...(env.BIG_MODEL_IP || env.BIG_MODEL_URL
        ? {
            cloud: withBreaker(
              createCloudClient({
                url: env.BIG_MODEL_URL || `http://${env.BIG_MODEL_IP}:${env.BIG_MODEL_PORT}`,
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
    const { cloud } = this.#options;
    this.#counts.inferences++;
    const routed = this.#route(sample);
    // A sample that is routed up costs the edge nothing, unless the cloud has no answer.
    const edge = routed?.hard && cloud ? undefined : await this.#askEdge(sample, routed);
    const verdict = edge?.verdict ?? routed ?? { hard: true, score: 0, threshold: 1 };
    if (verdict.hard) this.#counts.hard++;
    const answer = verdict.hard && cloud ? await this.#ask(cloud, sample) : undefined;
    if (answer && 'said' in answer)
      return this.#cloudResult(answer.said, edge, { verdict, startedAt });
    const said = edge ?? (await this.#askEdge(sample, routed));
    if (answer) this.#keep({ sample, edgeLabel: said.label });
    const latencyMs = performance.now() - startedAt;
    this.#counts.edgeAnswers++;
    this.#counts.edgeMs += latencyMs;
    this.#counts.bytesSaved += sample.byteLength;
    const { label, row: probabilities, boxes, tier } = said;
    const found = boxes ? { boxes } : {};
    const result = {
      label,
      probabilities,
      ...found,
      edgeLabel: label,
      ...verdict,
      tier,
      latencyMs,
    };
    return { ...result, source: 'edge', ...(answer ? { fallback: answer.why } : {}) };
  }

  #cloudResult(
    said: Said,
    edge: EdgeAnswer | undefined,
    at: { readonly verdict: Verdict; readonly startedAt: number },
  ): JointInferenceResult {
    const { label, row: probabilities, boxes } = said;
    if (edge) this.#compare(edge, said);
    const latencyMs = performance.now() - at.startedAt;
    this.#counts.cloudAnswers++;
    this.#counts.cloudMs += latencyMs;
    const { label: edgeLabel, tier } = edge ?? { label, tier: 0 };
    const found = boxes ? { boxes } : {};
    const result = { label, probabilities, ...found, edgeLabel, ...at.verdict, tier, latencyMs };
    return { ...result, source: 'cloud' };
  }

  #route(sample: Float32Array): Verdict | undefined {
    const { mode, route } = this.#options;
    return mode === 'mining-then-inference' ? route?.(sample) : undefined;
  }

  /** Asks the edge's models one after another until one is sure enough. */
  async #askEdge(sample: Float32Array, routed: Verdict | undefined): Promise<EdgeAnswer> {
    const { estimator, miner, cascade = [] } = this.#options;
    const tiers: readonly EdgeTier[] = [{ estimator, miner }, ...cascade];
    let last: EdgeAnswer | undefined;
    for (const [tier, { estimator: model, miner: judge }] of tiers.entries()) {
      const { said, shown } = isDetector(model)
        ? await detected(model, sample)
        : await classified(model, sample);
      const verdict = routed ?? judge.judge(shown);
      if (said.row.length > 0) this.#classes = said.row.length;
      last = { ...said, verdict, tier };
      if (!verdict.hard) break;
    }
    if (!last) throw new Error('there is always one model at the edge');
    return last;
  }

  #compare(edge: Omit<Said, 'row'>, cloud: Said): void {
    this.#counts.compared++;
    if (edge.boxes && cloud.boxes) this.#counts.agreed += boxAgreement(edge.boxes, cloud.boxes);
    else if (edge.label === cloud.label) this.#counts.agreed++;
  }

  async #ask(cloud: CloudModel, sample: Float32Array): Promise<{ said: Said } | { why: string }> {
    try {
      const said = await this.#askCloud(cloud, sample);
      this.#counts.uploads++;
      return { said };
    } catch (error) {
      if (this.#options.fallback === 'error') throw error;
      this.#counts.fallbacks++;
      return { why: messageOf(error) };
    }
  }

  async #askCloud(cloud: CloudModel, sample: Float32Array): Promise<Said> {
    if (isDetector(this.#options.estimator)) {
      if (!cloud.detect)
        throw new ShoalError('unsupported', 'the cloud model finds no boxes, the edge model does');
      return ofBoxes(await cloud.detect(sample));
    }
    const row = await cloud.infer(sample);
    expectProbabilities(row, this.#classes, 'the cloud model');
    return { row, label: argMax(Float32Array.from(row), 0, row.length) };
  }

  #keep(queued: Queued): void {
    if (this.#options.fallback !== 'queue') return;
    // The caller may use the sample's memory again.
    this.#queue.push({ ...queued, sample: queued.sample.slice() });
    const { queueSize = 1_000 } = this.#options;
    while (this.#queue.length > queueSize) {
      this.#queue.shift();
      this.#counts.dropped++;
    }
  }

  /**
   * The cloud's answer to a queued sample, which then leaves the queue; so does one that the cloud
   * cannot answer, however often it is asked.
   */
  async #askLate(cloud: CloudModel, next: Queued): Promise<Said | undefined> {
    // A full queue may have given it up meanwhile.
    const leave = (): void => {
      if (this.#queue[0] === next) this.#queue.shift();
    };
    try {
      const said = await this.#askCloud(cloud, next.sample);
      leave();
      return said;
    } catch (error) {
      if (!isShoalError(error) || error.retry === 'backoff') throw error;
      leave();
      this.#counts.dropped++;
      return undefined;
    }
  }

  /** Asks the cloud about queued samples until it is away again. */
  async drain(): Promise<void> {
    const { cloud, onLate } = this.#options;
    if (this.#draining || !cloud) return;
    this.#draining = true;
    try {
      for (let next = this.#queue[0]; next; next = this.#queue[0]) {
        const said = await this.#askLate(cloud, next);
        if (!said) continue;
        this.#counts.uploads++;
        this.#compare({ label: next.edgeLabel }, said);
        const found = said.boxes ? { boxes: said.boxes } : {};
        onLate?.({ ...next, probabilities: said.row, ...found });
      }
    } catch {
      // still away: what is queued stays
    } finally {
      this.#draining = false;
    }
  }

  get metrics(): JointInferenceMetrics {
    const counts = this.#counts;
    const { inferences, uploads } = counts;
    const mean = (sum: number, count: number): number => (count === 0 ? 0 : sum / count);
    return {
      inferenceNumber: inferences,
      hardExampleNumber: counts.hard,
      uploadNumber: uploads,
      uploadCloudRatio: mean(uploads, inferences),
      fallbackNumber: counts.fallbacks,
      agreement: counts.compared === 0 ? 1 : counts.agreed / counts.compared,
      queuedNumber: this.#queue.length,
      droppedNumber: counts.dropped,
      bytesSaved: counts.bytesSaved,
      edgeLatencyMs: mean(counts.edgeMs, counts.edgeAnswers),
      cloudLatencyMs: mean(counts.cloudMs, counts.cloudAnswers),
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
    for (const timer of this.#timers) clearInterval(timer);
    await this.report();
    await this.#options.estimator.close();
    for (const { estimator } of this.#options.cascade ?? []) await estimator.close();
  }
}

/** How far probabilities may be from a sum of one: rounding, and wires with few digits. */
const SUM_TOLERANCE = 0.01;

/** @throws ShoalError `data_corrupt` for what are no probabilities of so many classes. */
function expectProbabilities(
  row: ArrayLike<number>,
  classes: number | undefined,
  who: string,
): void {
  if (classes !== undefined && row.length !== classes)
    throw new ShoalError(
      'data_corrupt',
      `${who} has ${row.length} classes, the edge model ${classes}: their labels do not mean the same`,
    );
  let sum = 0;
  let least = 0;
  for (let k = 0; k < row.length; k++) {
    sum += row[k] ?? 0;
    least = Math.min(least, row[k] ?? 0);
  }
  if (!(Math.abs(sum - 1) <= SUM_TOLERANCE) || least < 0)
    throw new ShoalError(
      'data_corrupt',
      `${who} answered probabilities that sum to ${Number(sum.toFixed(4))}, not to one`,
    );
}

async function classified(
  model: Estimator,
  sample: Float32Array,
): Promise<{ said: Said; shown: EdgeResult }> {
  const { probabilities, logits } = await model.predict(sample, 1);
  expectProbabilities(probabilities, undefined, 'the edge model');
  const label = argMax(probabilities, 0, probabilities.length);
  return {
    said: { row: Array.from(probabilities), label },
    shown: { kind: 'probabilities', probabilities, ...(logits ? { logits } : {}) },
  };
}

async function detected(
  model: Detector,
  sample: Float32Array,
): Promise<{ said: Said; shown: EdgeResult }> {
  const [boxes = []] = await model.detect(sample, 1);
  return { said: ofBoxes(boxes), shown: { kind: 'boxes', boxes } };
}

function ofBoxes(boxes: readonly Box[]): Said {
  return { row: [], boxes, label: boxes[0]?.[5] ?? -1 };
}
