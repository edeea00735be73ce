import { ShoalError } from '@shoal/core';

/** Splits one line of CSV (RFC 4180, without line breaks inside quotes). */
export function splitCsvLine(line: string): string[] {
  if (!line.includes('"')) return line.split(',');
  const fields: string[] = [];
  for (const match of line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)) {
    fields.push(match[1] === undefined ? (match[2] ?? '') : match[1].replaceAll('""', '"'));
  }
  return fields;
}

/** A table as columns of text, by name. */
export type TextTable = ReadonlyMap<string, readonly string[]>;

/** Parses CSV with a header. @throws ShoalError `data_corrupt` naming a line with a wrong number of fields. */
export function parseCsv(text: string, source: string): TextTable {
  const lines = text.split(/\r?\n/).filter((l) => l !== '');
  const header = splitCsvLine(lines[0] ?? '');
  const columns = header.map((): string[] => []);
  for (const [i, line] of lines.entries()) {
    if (i === 0) continue;
    const fields = splitCsvLine(line);
    if (fields.length !== header.length) {
      throw new ShoalError(
        'data_corrupt',
        `${source} line ${i + 1}: ${fields.length} fields, the header has ${header.length}`,
      );
    }
    for (const [c, field] of fields.entries()) columns[c]?.push(field);
  }
  return new Map(header.map((name, c) => [name, columns[c] ?? []]));
}
