/** Columns a text takes: characters as people count them. */
function width(text: string): number {
  return Array.from(new Intl.Segmenter().segment(text)).length;
}

/** Rows as aligned columns; the first row is the head. Numbers-only columns align to the right. */
export function renderTable(rows: readonly (readonly string[])[]): string {
  const columns = Math.max(0, ...rows.map((r) => r.length));
  const widths = Array.from({ length: columns }, (_, c) =>
    Math.max(...rows.map((r) => width(r[c] ?? ''))),
  );
  const numeric = widths.map(
    (_, c) =>
      rows.length > 1 &&
      rows.slice(1).every((r) => /^[-+]?[\d.,]+\s*(%|ms|s|points)?$/.test(r[c] ?? '')),
  );
  const pad = (text: string, c: number): string => {
    const space = ' '.repeat(Math.max(0, (widths[c] ?? 0) - width(text)));
    return numeric[c] ? space + text : text + space;
  };
  const line = (row: readonly string[]): string =>
    widths
      .map((_, c) => pad(row[c] ?? '', c))
      .join('  ')
      .trimEnd();
  const [head, ...body] = rows;
  if (!head) return '';
  return [line(head), widths.map((w) => '─'.repeat(w)).join('  '), ...body.map(line)].join('\n');
}
