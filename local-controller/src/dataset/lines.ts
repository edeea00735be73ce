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
    return first.split(',').map((h) => h.trim().replace(/^"(.*)"$/, '$1'));
  } finally {
    closeSync(file);
  }
}

/** What came in, as lines of a dataset; what fits no line is told. */
export interface SampleLines {
  readonly lines: readonly string[];
  readonly refused: readonly string[];
}

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
  const parsed = typeof value === 'string' ? parse(value) : value;
  return isJsonObject(parsed) ? JSON.stringify(parsed) : refuse('a sample is a JSON object');
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
  if (format.name !== 'txt' && /^\s*[[{]/.test(text)) {
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
    return { lines: [], refused: ['it is not UTF-8 text'] };
  }
  const lines: string[] = [];
  const refused: string[] = [];
  for (const value of samplesOf(text, format)) {
    if (format.name === 'csv' && value === header.join(',')) continue;
    try {
      const line = lineOf(value, format, header);
      if (Buffer.byteLength(line) > MAX_LINE_BYTES)
        refuse(`it is longer than ${MAX_LINE_BYTES} bytes`);
      lines.push(line);
    } catch (error) {
      refused.push(messageOf(error));
    }
  }
  return { lines, refused };
}
