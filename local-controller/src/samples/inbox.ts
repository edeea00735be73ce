import { existsSync, readFileSync, statSync } from 'node:fs';
import {
  type LabelledBatch,
  type LabelledSample,
  recordKey,
  type SamplesReport,
  type StageAssignment,
} from '@shoal/api';
import { type Logger, messageOf, ShoalError } from '@shoal/core';
import { appendOnce } from '../dataset/append-once.ts';
import { datasetFormat } from '../dataset/formats.ts';
import { datasetLine, readHeader } from '../dataset/lines.ts';
import { isRemote } from '../dataset/remote-url.ts';
import type { Link } from '../link/link.ts';
import type { ModelStore } from '../model/model-store.ts';
import type { EdgeDatabase } from '../store/database.ts';

export interface InboxPorts {
  readonly db: EdgeDatabase;
  readonly link: Link;
  readonly models: ModelStore;
  readonly logger: Logger;
  readonly hostPath: (path: string) => string;
}

/** A batch that is in the file. */
interface Done {
  readonly digest: string;
  readonly refused: SamplesReport['refused'];
}

/** What is known of the batches of a job. */
interface Progress {
  /** The newest batches that are in the file, oldest first. */
  readonly done: readonly Done[];
  /** The batch that is being appended, and how long the file was before. */
  readonly appending?: { readonly digest: string; readonly offset: number };
}

/** Batches that are remembered: one that is sent again is not appended again. */
const KEPT_BATCHES = 200;
/** How far back a batch is looked for when nothing is remembered of the job. */
const LOOK_BACK_BYTES = 32 * 1024 * 1024;

/** Appends labelled samples to the datasets of this node, each batch once, whatever happens between. */
export class LabelledInbox {
  readonly #ports: InboxPorts;

  constructor(ports: InboxPorts) {
    this.#ports = ports;
  }

  #progress(job: StageAssignment): Progress | undefined {
    return this.#ports.db.progress<Progress>(this.#key(job));
  }

  #key(job: StageAssignment): string {
    return `labelled/${job.metadata.uid}`;
  }

  /** Takes the batch of an assignment, if there is one that is not in the file yet. */
  async take(job: StageAssignment): Promise<void> {
    const { labelled } = job;
    if (!labelled) return;
    const find = (): Done | undefined =>
      this.#progress(job)?.done.find((d) => d.digest === labelled.digest);
    if (!find()) await this.#append(job, labelled);
    const refused = find()?.refused ?? [];
    const { digest } = labelled;
    const report: SamplesReport = { uid: job.metadata.uid ?? '', digest, refused };
    this.#ports.link.report(recordKey('IncrementalLearningJob', job.metadata, 'Samples'), report);
  }

  /** Lines of the dataset for a batch, and the samples that fit none. */
  async #lines(
    labelled: LabelledBatch,
    path: string,
    spec: StageAssignment['dataset']['spec'],
  ): Promise<{ lines: string[]; refused: { id: string; reason: string }[] }> {
    const format = datasetFormat(spec.format);
    const blob = readFileSync(await this.#ports.models.fetch(labelled.digest), 'utf8');
    const header = format.headerLines === 1 && existsSync(path) ? readHeader(path) : [];
    if (format.headerLines === 1 && header.join('') === '')
      throw new ShoalError(
        'failed_precondition',
        `${spec.url} has no header line: labelled samples cannot be written into its columns`,
      );
    const lines: string[] = [];
    const refused: { id: string; reason: string }[] = [];
    for (const line of blob.split('\n').filter((l) => l !== '')) {
      const sample = JSON.parse(line) as LabelledSample;
      try {
        lines.push(`${datasetLine(sample, format, header)}\n`);
      } catch (error) {
        refused.push({ id: sample.id, reason: messageOf(error) });
      }
    }
    return { lines, refused };
  }

  async #append(job: StageAssignment, labelled: LabelledBatch): Promise<void> {
    const { db, models, logger, hostPath } = this.#ports;
    const { url } = job.dataset.spec;
    if (isRemote(url))
      throw new ShoalError(
        'failed_precondition',
        `${url} is remote: labelled samples cannot be appended; give the job a Dataset on a node`,
      );
    const path = hostPath(url);
    const { lines, refused } = await this.#lines(labelled, path, job.dataset.spec);
    const { digest } = labelled;
    const before = this.#progress(job);
    const size = existsSync(path) ? statSync(path).size : 0;
    const resumed = before?.appending?.digest === digest ? before.appending : undefined;
    // A node that has lost what it knew of the job looks for the batch before it appends it.
    const fresh = before ? size : Math.max(0, size - LOOK_BACK_BYTES);
    const offset = resumed?.offset ?? fresh;
    const done = before?.done ?? [];
    if (!resumed) db.setProgress(this.#key(job), { done, appending: { digest, offset } });
    appendOnce(path, Buffer.from(lines.join('')), offset);
    db.setProgress(this.#key(job), { done: [...done, { digest, refused }].slice(-KEPT_BATCHES) });
    models.forget(labelled.digest);
    logger.info('labelled samples appended', {
      job: job.metadata.name,
      samples: lines.length,
      refused: refused.length,
    });
  }
}
