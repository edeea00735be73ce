import { readFileSync, writeFileSync } from 'node:fs';
import { extname } from 'node:path';
import { fromNode, isJsonObject, type JsonObject, ShoalError } from '@shoal/core';
import type { CloudSample, SampleVerdict } from '@shoal/lib';

const COLUMNS = ['id', 'predicted', 'suggestion', 'confidence', 'label'] as const;

function cell(value: string | number): string {
  const text = String(value);
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Cells of a CSV line, quotes taken off. */
function cellsOf(line: string): string[] {
  const found = line.match(/("([^"]|"")*"|[^,]*)(,|$)/g) ?? [];
  return found
    .slice(0, line.endsWith(',') ? undefined : -1)
    .map((c) => c.replace(/,$/, ''))
    .map((c) => (c.startsWith('"') ? c.slice(1, -1).replaceAll('""', '"') : c));
}

/** Writes samples for somebody who labels them elsewhere: JSON lines with the data, or a CSV table without. */
export function writeLabelFile(file: string, samples: readonly CloudSample[]): void {
  const rows = samples.map((s) => ({
    id: s.id,
    predicted: s.example?.predicted,
    suggestion: s.suggestion,
    confidence: s.suggestion === undefined ? undefined : s.confidence,
    label: s.label ?? null,
    data: s.example?.data,
  }));
  const text =
    extname(file) === '.csv'
      ? [COLUMNS.join(','), ...rows.map((r) => COLUMNS.map((c) => cell(r[c] ?? '')).join(','))]
      : rows.map((r) => JSON.stringify(r));
  try {
    writeFileSync(file, text.map((line) => `${line}\n`).join(''));
  } catch (error) {
    throw fromNode(error, `writing ${file}`);
  }
}

function csvRows(text: string, file: string): { row: JsonObject; line: number }[] {
  const [head = '', ...rest] = text.split(/\r?\n/);
  const columns = cellsOf(head.trim()).map((c) => c.trim());
  for (const needed of ['id', 'label'])
    if (!columns.includes(needed))
      throw new ShoalError(
        'invalid_argument',
        `${file} has no column "${needed}"; it has: ${columns.join(', ')}`,
      );
  return rest
    .map((line, i) => ({ line, at: i + 2 }))
    .filter(({ line }) => line.trim() !== '')
    .map(({ line, at }) => {
      const cells = cellsOf(line);
      return { row: Object.fromEntries(columns.map((c, i) => [c, cells[i] ?? ''])), line: at };
    });
}

function jsonRows(text: string, file: string): { row: JsonObject; line: number }[] {
  return text
    .split('\n')
    .map((line, i) => ({ text: line, line: i + 1 }))
    .filter((l) => l.text.trim() !== '')
    .map(({ text: json, line }) => {
      let row: unknown;
      try {
        row = JSON.parse(json);
      } catch {
        // told below
      }
      if (!isJsonObject(row))
        throw new ShoalError('invalid_argument', `${file} line ${line}: not a JSON object`);
      return { row, line };
    });
}

function verdictOf(row: JsonObject, where: string): SampleVerdict | undefined {
  const { id, label, reject } = row;
  if (typeof id !== 'string' || id === '')
    throw new ShoalError('invalid_argument', `${where}: it has no "id"`);
  if (typeof reject === 'string' && reject !== '') return { id, reject };
  if (label === undefined || label === null || label === '') return undefined;
  const value = typeof label === 'string' && /^\d+$/.test(label.trim()) ? Number(label) : label;
  if (typeof value === 'string') return { id, label: value };
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0)
    return { id, label: value };
  throw new ShoalError(
    'invalid_argument',
    `${where}: ${JSON.stringify(label)} is no label; labels are whole numbers from 0 on, or names`,
  );
}

/**
 * Reads a file that {@link writeLabelFile} wrote and somebody filled.
 *
 * @returns Verdicts, and how many lines have no label yet.
 * @throws ShoalError `invalid_argument` naming the line; nothing of the file counts then.
 */
export function readLabelFile(file: string): { verdicts: SampleVerdict[]; skipped: number } {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw fromNode(error, `reading ${file}`);
  }
  const rows = extname(file) === '.csv' ? csvRows(text, file) : jsonRows(text, file);
  const verdicts = new Map<string, SampleVerdict>();
  let skipped = 0;
  for (const { row, line } of rows) {
    const verdict = verdictOf(row, `${file} line ${line}`);
    if (!verdict) skipped++;
    else if (verdicts.has(verdict.id))
      throw new ShoalError(
        'invalid_argument',
        `${file} line ${line}: ${verdict.id} was there before`,
      );
    else verdicts.set(verdict.id, verdict);
  }
  return { verdicts: [...verdicts.values()], skipped };
}
