import {
  type IncrementalLearningJob,
  type InferenceReport,
  type LabelledBatch,
  type LabelledSample,
  recordKey,
  type SamplesReport,
  type SpoolCounts,
} from '@shoal/api';
import type { BlobStore } from '../../edge-link/blobs.ts';
import type { Records } from '../../edge-link/records.ts';
import type { SampleStore } from '../../samples/sample-store.ts';
import { workOf } from '../job-nodes.ts';
import type { Observed } from '../stage-job/stage-job.ts';

export interface LoopPorts {
  readonly samples: SampleStore;
  readonly blobs: BlobStore;
  readonly records: Records;
}

type Status = NonNullable<IncrementalLearningJob['status']>;

/** One batch: small enough to be fetched and appended in a moment. */
const BATCH_SAMPLES = 1_000;
const BATCH_BYTES = 8 * 1024 * 1024;
/** Alarms the dataset's node is told; more say nothing more. */
const KEPT_ALARMS = 20;

function figure(info: Readonly<Record<string, unknown>>, name: string): number {
  const value = info[name];
  return typeof value === 'number' && Number.isFinite(value) ? Math.max(0, Math.round(value)) : 0;
}

function alarmsOf(info: Readonly<Record<string, unknown>>): string[] {
  const { alarms } = info;
  const list: readonly unknown[] = Array.isArray(alarms) ? alarms : [];
  return list.filter((a): a is string => typeof a === 'string' && !Number.isNaN(Date.parse(a)));
}

function contentOf(samples: readonly LabelledSample[]): Buffer {
  return Buffer.from(samples.map((sample) => `${JSON.stringify(sample)}\n`).join(''));
}

const SPOOLED: readonly (keyof SpoolCounts)[] = ['collected', 'dropped', 'spooled'];

/**
 * The way of hard examples back into the dataset, and what the serving workers say: labelled samples
 * go to the dataset's node in batches, one at a time, until it says that they are in the file.
 */
export class HardExampleLoop {
  readonly #ports: LoopPorts;
  /** Jobs that were looked at before. */
  readonly #seen = new Set<string>();

  constructor(ports: LoopPorts) {
    this.#ports = ports;
  }

  /** Takes deliveries, begins the next batch, and sums up. */
  async observe(job: IncrementalLearningJob, datasetNode: string | undefined): Promise<Observed> {
    const { uid = '', namespace = '', name } = job.metadata;
    // What an earlier job of this name left is nobody's any more.
    if (!this.#seen.has(uid)) this.forget(namespace, name, uid);
    this.#seen.add(uid);
    const told = this.#reports(job);
    const reports = told.map((t) => t.body);
    const driftAlarms = [...new Set(reports.flatMap((r) => alarmsOf(r.ownerInfo)))]
      .toSorted()
      .slice(-KEPT_ALARMS);
    const spooling = told.filter((t) => (t.body.spool?.spooled ?? 0) > 0).map((t) => t.node);
    const labelled = job.spec.hardExamples ? await this.#batch(job, datasetNode) : undefined;
    const status: Pick<Status, 'hardExamples' | 'inference'> = {
      ...(job.spec.hardExamples ? { hardExamples: this.#counts(job, reports) } : {}),
      ...(reports.length > 0 ? { inference: this.#inference(reports, driftAlarms) } : {}),
    };
    return {
      status,
      ...(labelled ? { labelled } : {}),
      ...(driftAlarms.length > 0 ? { driftAlarms } : {}),
      ...(spooling.length > 0 ? { spooling } : {}),
    };
  }

  /** Forgets the samples of jobs of this name but this one. */
  forget(namespace: string, name: string, except: string): void {
    this.#ports.samples.forget(namespace, name, except);
  }

  #reports(job: IncrementalLearningJob): { node: string; body: InferenceReport }[] {
    return this.#ports.records
      .said<InferenceReport>(workOf('IncrementalLearningJob', job), 'Inference')
      .filter((r) => r.body.uid === job.metadata.uid);
  }

  async #batch(
    job: IncrementalLearningJob,
    datasetNode: string | undefined,
  ): Promise<LabelledBatch | undefined> {
    const { samples, blobs, records } = this.#ports;
    const { uid = '', namespace = '', name } = job.metadata;
    if (datasetNode === undefined) return undefined;
    const key = recordKey('IncrementalLearningJob', job.metadata, 'Samples');
    const report = records.record<SamplesReport>(datasetNode, key);
    if (
      report?.uid === uid &&
      samples.delivered({ uid, namespace, name }, report.digest, report.refused)
    )
      blobs.remove(report.digest);
    const open = samples.openBatch(uid);
    if (open) {
      // A blob store that was lost gets the batch again: its content is still here.
      if (!blobs.stat(open.digest).complete)
        await blobs.put(contentOf(samples.contentOf(uid, open.batch)));
      return { digest: open.digest, samples: open.samples };
    }
    const next = samples.deliverable(uid, BATCH_SAMPLES, BATCH_BYTES);
    if (next.length === 0) return undefined;
    const digest = await blobs.put(contentOf(next));
    const begun = samples.begin(uid, digest, next);
    return begun && { digest, samples: begun.samples };
  }

  #counts(
    job: IncrementalLearningJob,
    reports: readonly InferenceReport[],
  ): NonNullable<Status['hardExamples']> {
    const sums = Object.fromEntries(
      SPOOLED.map((k) => [k, reports.reduce((n, r) => n + (r.spool?.[k] ?? 0), 0)]),
    );
    return { ...sums, ...this.#ports.samples.counts(job.metadata.uid ?? '') };
  }

  #inference(
    reports: readonly InferenceReport[],
    driftAlarms: readonly string[],
  ): NonNullable<Status['inference']> {
    const sum = (name: string): number =>
      reports.reduce((n, r) => n + figure(r.ownerInfo, name), 0);
    const inferences = sum('inferenceNumber');
    const hard = sum('hardExampleNumber');
    const lastDriftAlarm = driftAlarms.at(-1);
    return {
      inferences,
      hard,
      hardRatio: inferences === 0 ? 0 : Number((hard / inferences).toFixed(4)),
      driftAlarms: sum('driftAlarmNumber'),
      ...(lastDriftAlarm === undefined ? {} : { lastDriftAlarm }),
    };
  }
}
