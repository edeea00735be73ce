import { closeSync, openSync, readSync } from 'node:fs';
import type { LabelledSample, SampleLabel } from '@shoal/api';
import { isJsonObject, type JsonObject, messageOf, ShoalError } from '@shoal/core';
import type { DatasetFormat } from './formats.ts';

const MAX_HEADER_BYTES = 64 * 1024;
/** A sample of more than this is refused. */
const MAX_LINE_BYTES = 1024 * 1024;
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
export function readHeader(path: string): string[] {
  const file = openSync(path, 'r');
  try {
    const bytes = Buffer.alloc(MAX_HEADER_BYTES);
    const length = readSync(file, bytes, 0, bytes.length, 0);
    const [first = ''] = bytes.toString('utf8', 0, length).split(/\r?\n/, 1);
    return columnsOf(first);
  } finally {
    closeSync(file);
  }
}

/** What came in, as lines of a dataset; what fits no line is told. */
export interface SampleLines {
  readonly lines: readonly string[];
  /** Why others were refused; the first {@link MAX_REASONS}. */
  readonly refused: readonly string[];
  /** How many were refused. */
  readonly rejected: number;
}

const MAX_REASONS = 20;
/** Samples in one delivery: more would keep the node from everything else. */
const MAX_SAMPLES = 50_000;

function refuse(why: string): never {
  throw new ShoalError('invalid_argument', why);
}

/** Columns of a line of CSV. @throws ShoalError for a quote that is not closed. */
function columnsIn(line: string): number {
  const quotes = line.split('"').length - 1;
  if (quotes % 2 === 1) refuse('it has a quote that is not closed');
  return line.replaceAll(/"[^"]*"/g, '').split(',').length;
}

function csvOf(value: string | JsonObject, header: readonly string[]): string {
  if (typeof value !== 'string')
    return header
      .map((column) =>
        cell(value[column] ?? refuse(`it has no "${column}", which the dataset has`)),
      )
      .join(',');
  const columns = columnsIn(value);
  if (columns !== header.length)
    refuse(`it has ${columns} columns, the dataset has ${header.length}`);
  return value;
}

function lineOf(value: unknown, format: DatasetFormat, header: readonly string[]): string {
  if (format.name === 'txt')
    return typeof value === 'string'
      ? value
      : refuse('a sample of a txt dataset is a line of text');
  if (format.name === 'csv')
    return typeof value === 'string' || isJsonObject(value)
      ? csvOf(value, header)
      : refuse('a sample is a line of CSV, or a JSON object');
  if (typeof value !== 'string')
    return isJsonObject(value) ? JSON.stringify(value) : refuse('a sample is a JSON object');
  // As it was sent: a number may have more digits than this program can count.
  return isJsonObject(parse(value)) ? value.trim() : refuse('a sample is a JSON object');
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    return refuse(`it is not JSON: ${messageOf(error)}`);
  }
}

/** Samples in what came in: the elements of a JSON list, one JSON object over many lines, or its lines. */
function samplesOf(text: string, format: DatasetFormat): unknown[] {
  const isLine = !/[\n\r]/.test(text.trim()) && !/^\s*\[/.test(text);
  if (format.name !== 'txt' && !(isLine && format.name === 'jsonl') && /^\s*[[{]/.test(text)) {
    try {
      const whole = JSON.parse(text) as unknown;
      return Array.isArray(whole) ? whole : [whole];
    } catch {
      // Not one document: a line each.
    }
  }
  return text.split(/\r?\n/).filter((line) => line.trim() !== '');
}

/**
 * Lines of a growing dataset for samples that were pushed: a JSON object, a list of them, or text
 * with a sample in each line. A header line that comes along is left out.
 *
 * @param header Columns of a CSV dataset; ignored for the others.
 */
export function sampleLines(
  payload: Buffer,
  format: DatasetFormat,
  header: readonly string[],
): SampleLines {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(payload);
  } catch {
    return { lines: [], refused: ['it is not UTF-8 text'], rejected: 1 };
  }
  const samples = samplesOf(text, format);
  if (samples.length > MAX_SAMPLES)
    return {
      lines: [],
      refused: [`it has ${samples.length} samples; send at most ${MAX_SAMPLES} at a time`],
      rejected: samples.length,
    };
  const lines: string[] = [];
  const refused: string[] = [];
  let rejected = 0;
  for (const value of samples) {
    if (format.name === 'csv' && typeof value === 'string' && isHeader(value, header)) continue;
    try {
      const line = lineOf(value, format, header);
      if (Buffer.byteLength(line) > MAX_LINE_BYTES)
        refuse(`it is longer than ${MAX_LINE_BYTES} bytes`);
      lines.push(line);
    } catch (error) {
      if (rejected++ < MAX_REASONS) refused.push(messageOf(error));
    }
  }
  return { lines, refused, rejected };
}

function columnsOf(line: string): string[] {
  return line.split(',').map((h) => h.trim().replace(/^"(.*)"$/, '$1'));
}

function isHeader(line: string, header: readonly string[]): boolean {
  const columns = columnsOf(line);
  return columns.length === header.length && columns.every((c, i) => c === header[i]);
}
