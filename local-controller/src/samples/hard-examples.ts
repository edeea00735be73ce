import {
  type HardExample,
  type InferenceReport,
  recordKey,
  type StageAssignment,
} from '@shoal/api';
import {
  type Clock,
  canonicalJson,
  digestOf,
  isJsonObject,
  type Logger,
  messageOf,
  ShoalError,
} from '@shoal/core';
import type { Link } from '../link/link.ts';
import type { EdgeTransport } from '../link/transport.ts';
import type { EdgeDatabase } from '../store/database.ts';
import type { HardExampleSpool } from './spool.ts';

const KIND = 'IncrementalLearningJob';
const UPLOAD_SAMPLES = 256;
const UPLOAD_BYTES = 4 * 1024 * 1024;
const MAX_SAMPLE_BYTES = 2 * 1024 * 1024;
/** After the cloud did not take samples, it is asked again after this long. */
const RETRY_MS = 2_000;
/** Counts are told at most this often. */
const REPORT_MS = 1_000;

export interface HardExamplePorts {
  readonly db: EdgeDatabase;
  readonly link: Link;
  readonly transport: Pick<EdgeTransport, 'putSamples'>;
  readonly spool: HardExampleSpool;
  readonly clock: Clock;
  readonly logger: Logger;
}

type Info = Readonly<Record<string, unknown>>;

/** Drift alarms are remembered up to this many. */
const KEPT_ALARMS = 20;

/** Times of drift alarms, all in one form: they are compared as texts. */
function alarmsOf({ alarms }: Info): string[] {
  const list: readonly unknown[] = Array.isArray(alarms) ? alarms : [];
  return list
    .filter((a): a is string => typeof a === 'string' && !Number.isNaN(Date.parse(a)))
    .map((a) => new Date(a).toISOString());
}

/** @throws ShoalError `invalid_argument` saying which sample is wrong and why. */
function parseExamples(body: unknown): HardExample[] {
  const list = isJsonObject(body) ? body['samples'] : undefined;
  if (!Array.isArray(list))
    throw new ShoalError(
      'invalid_argument',
      'the body must be {"samples": [{"id", "data", …}, …]}',
    );
  return list.map((value: unknown, i) => {
    const data = isJsonObject(value) ? value['data'] : undefined;
    if (!isJsonObject(value) || !isJsonObject(data))
      throw new ShoalError('invalid_argument', `samples[${i}].data must be an object`);
    const id = digestOf(canonicalJson(data));
    if (value['id'] !== undefined && value['id'] !== id)
      throw new ShoalError('invalid_argument', `samples[${i}].id is not the digest of its data`);
    const collectedAt = value['collectedAt'];
    const example = {
      ...value,
      id,
      data,
      collectedAt: typeof collectedAt === 'string' ? collectedAt : new Date().toISOString(),
    };
    if (JSON.stringify(example).length > MAX_SAMPLE_BYTES)
      throw new ShoalError(
        'invalid_argument',
        `samples[${i}] is larger than ${MAX_SAMPLE_BYTES} bytes`,
      );
    return example;
  });
}

/** Hard examples of this node's workers: taken, kept on disk, sent up, counted. */
export class HardExamples {
  readonly #ports: HardExamplePorts;
  readonly #busy = new Set<string>();
  readonly #retryAt = new Map<string, number>();
  readonly #reportedAt = new Map<string, number>();

  constructor(ports: HardExamplePorts) {
    this.#ports = ports;
  }

  #jobs(): StageAssignment[] {
    return this.#ports.db.objects(KIND).map((o) => o.body as StageAssignment);
  }

  /**
   * Takes what a worker found.
   *
   * @returns How many samples were new.
   * @throws ShoalError `not_found` when the job does not collect here; `invalid_argument` for anything
   *   that is no hard example.
   */
  take(job: { readonly namespace: string; readonly name: string }, body: unknown): number {
    const found = this.#jobs().find(
      (j) => j.metadata.namespace === job.namespace && j.metadata.name === job.name,
    );
    if (!found?.spool)
      throw new ShoalError(
        'not_found',
        `job ${job.namespace}/${job.name} collects no hard examples on this node; set spec.hardExamples`,
      );
    const { uid = '' } = found.metadata;
    return this.#ports.spool.add(uid, parseExamples(body), found.spool);
  }

  /** What a serving worker says of itself. */
  observe(job: StageAssignment, ownerInfo: Info): void {
    const key = `inference/${job.metadata.uid}`;
    // A worker that was restarted knows nothing of its alarms of before.
    const before = alarmsOf(this.#ports.db.progress<Info>(key) ?? {});
    const all = new Set([...before, ...alarmsOf(ownerInfo)]);
    const alarms = [...all].toSorted().slice(-KEPT_ALARMS);
    this.#ports.db.setProgress(key, { ...ownerInfo, alarms });
    this.#report(job);
  }

  #report(job: StageAssignment): void {
    const { db, link, spool } = this.#ports;
    const { uid = '' } = job.metadata;
    const ownerInfo = db.progress<Info>(`inference/${uid}`) ?? {};
    const report: InferenceReport = {
      uid,
      ownerInfo,
      ...(job.spool ? { spool: spool.counts(uid) } : {}),
    };
    link.report(recordKey(KIND, job.metadata, 'Inference'), report);
  }

  /** Sends what waits; a job whose samples are not taken does not hold up the others. */
  poll(): void {
    const jobs = this.#jobs();
    const uids = new Set(jobs.map((j) => j.metadata.uid ?? ''));
    this.#ports.spool.keepOnly(uids, this.#ports.clock.now());
    for (const job of jobs) {
      // A node that does not serve any more may still have samples.
      if (!job.spool || (!job.roles.includes('deploy') && !this.#hasSome(job))) continue;
      void this.#upload(job);
      this.#count(job);
    }
  }

  #hasSome(job: StageAssignment): boolean {
    const { collected } = this.#ports.spool.counts(job.metadata.uid ?? '');
    return collected > 0;
  }

  #count(job: StageAssignment): void {
    const { uid = '' } = job.metadata;
    const now = this.#ports.clock.now();
    if (now - (this.#reportedAt.get(uid) ?? 0) < REPORT_MS) return;
    this.#reportedAt.set(uid, now);
    this.#report(job);
  }

  async #upload(job: StageAssignment): Promise<void> {
    const { spool, transport, clock, logger, link } = this.#ports;
    const { uid = '', namespace = '', name } = job.metadata;
    if (!link.connected || this.#busy.has(uid) || clock.now() < (this.#retryAt.get(uid) ?? 0))
      return;
    this.#busy.add(uid);
    try {
      for (;;) {
        const samples = spool.pending(uid, UPLOAD_SAMPLES, UPLOAD_BYTES);
        if (samples.length === 0) return;
        const { taken, reason } = await transport.putSamples({
          kind: KIND,
          namespace,
          name,
          uid,
          samples,
        });
        spool.sent(uid, taken);
        if (taken.length < samples.length)
          throw new ShoalError(
            'resource_exhausted',
            reason || 'the cloud did not take all samples',
          );
      }
    } catch (error) {
      this.#retryAt.set(uid, clock.now() + RETRY_MS);
      logger.warn('hard examples stay here for now', { job: name, reason: messageOf(error) });
    } finally {
      this.#busy.delete(uid);
    }
  }
}
