import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import {
  type LabelledBatch,
  type LabelledSample,
  recordKey,
  type SampleLabel,
  type SamplesReport,
  type StageAssignment,
} from '@shoal/api';
import { fromNode, type JsonObject, type Logger, messageOf, ShoalError } from '@shoal/core';
import { type DatasetFormat, datasetFormat } from '../dataset/formats.ts';
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
const MAX_HEADER_BYTES = 64 * 1024;
/** A last line without its end that is older than this is not being written any more. */
const QUIET_MS = 5_000;
const LABEL_COLUMNS: readonly string[] = ['label', 'target', 'class', 'y'];

/** @throws ShoalError for what would be more than one line: everything else cuts the file at its lines. */
function cell(value: unknown): string {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  if (/[\n\r]/.test(text))
    throw new ShoalError('invalid_argument', 'it has a value of more than one line');
  return /[",]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function csvLine(data: JsonObject, label: SampleLabel, header: readonly string[]): string {
  const lower = header.map((h) => h.toLowerCase());
  const named = LABEL_COLUMNS.find((n) => lower.includes(n));
  const at = named === undefined ? header.length - 1 : lower.indexOf(named);
  return header
    .map((column, i) => {
      if (i === at) return cell(label);
      const value = data[column];
      if (value === undefined || value === null)
        throw new ShoalError('invalid_argument', `it has no "${column}", which the dataset has`);
      return cell(value);
    })
    .join(',');
}

/**
 * A line of the dataset for a labelled sample.
 *
 * @throws ShoalError `invalid_argument` saying what the sample lacks.
 */
export function datasetLine(
  sample: Pick<LabelledSample, 'data' | 'label'>,
  format: DatasetFormat,
  header: readonly string[],
): string {
  const { data, label } = sample;
  if (format.name === 'jsonl') return JSON.stringify({ ...data, label });
  if (format.name === 'csv') return csvLine(data, label, header);
  const text = data['text'];
  if (typeof text !== 'string' || /[\n\r]/.test(`${text}${label}`))
    throw new ShoalError(
      'invalid_argument',
      'a txt dataset needs {"text": one line}, and a label of one',
    );
  return `${text} ${String(label)}`;
}

/** Header columns of a CSV file. */
function readHeader(path: string): string[] {
  const file = openSync(path, 'r');
  try {
    const bytes = Buffer.alloc(MAX_HEADER_BYTES);
    const length = readSync(file, bytes, 0, bytes.length, 0);
    const [first = ''] = bytes.toString('utf8', 0, length).split(/\r?\n/, 1);
    return first.split(',').map((h) => h.trim().replace(/^"(.*)"$/, '$1'));
  } finally {
    closeSync(file);
  }
}

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

/**
 * Appends bytes to a file unless they are there already, at or after an offset. Others may append
 * meanwhile; what a killed process wrote in part is completed when it is the end of the file.
 *
 * @throws ShoalError `resource_exhausted` when the disk is full; the file is as long as before then.
 */
export function appendOnce(path: string, bytes: Buffer, offset: number): void {
  if (bytes.length === 0) return;
  let file: number | undefined;
  try {
    mkdirSync(dirname(path), { recursive: true });
    file = openSync(path, 'a+');
    const size = fstatSync(file).size;
    const written = Buffer.alloc(Math.max(0, size - offset));
    readSync(file, written, 0, written.length, offset);
    if (written.includes(bytes)) return;
    const rest = bytes.subarray(overlap(written, bytes));
    // A line without its end is somebody else's: ours begins on its own.
    const torn = rest.length === bytes.length && size > 0 && !endsLine(file, size);
    if (torn && Date.now() - fstatSync(file).mtimeMs < QUIET_MS)
      throw new ShoalError('unavailable', 'somebody is writing its last line, will retry');
    writeAll(file, torn ? Buffer.concat([Buffer.from('\n'), rest]) : rest);
    fsyncSync(file);
  } catch (error) {
    throw fromNode(error, `appending to ${path}`);
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

/** The longest end of what was written that is a beginning of the bytes. */
function overlap(written: Buffer, bytes: Buffer): number {
  for (let n = Math.min(written.length, bytes.length - 1); n > 0; n--) {
    const from = written.length - n;
    if (written[from] === bytes[0] && written.subarray(from).equals(bytes.subarray(0, n))) return n;
  }
  return 0;
}

function endsLine(file: number, size: number): boolean {
  const last = Buffer.alloc(1);
  readSync(file, last, 0, 1, size - 1);
  return last[0] === 0x0a;
}

/** All of it, or nothing: a disk that fills up in between leaves no half line. */
function writeAll(file: number, bytes: Buffer): void {
  const before = fstatSync(file).size;
  let at = 0;
  try {
    while (at < bytes.length) at += writeSync(file, bytes, at);
  } catch (error) {
    if (fstatSync(file).size === before + at) ftruncateSync(file, before);
    throw error;
  }
}
