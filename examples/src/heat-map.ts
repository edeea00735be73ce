const CELL = 64;
const LEFT = 150;
const TOP = 70;

function escaped(text: string): string {
  return text.replace(/[<>&"]/g, (c) => `&#${c.codePointAt(0) ?? 0};`);
}

/** White over yellow-green to deep blue; darker is better. */
function colour(value: number): string {
  const v = Math.min(1, Math.max(0, value));
  const mix = (a: number, b: number): number => Math.round(a + (b - a) * v);
  return `rgb(${mix(255, 8)},${mix(255, 64)},${mix(229, 129)})`;
}

/**
 * R[i][j] as a picture: a row per task learned, a column per task tested.
 *
 * @param matrix Scores in [0, 1], `[tasks][tasks]`.
 */
export function heatMapSvg(
  title: string,
  names: readonly string[],
  matrix: readonly (readonly number[])[],
): string {
  const width = LEFT + names.length * CELL + 20;
  const height = TOP + matrix.length * CELL + 40;
  const cells = matrix.flatMap((row, i) =>
    row.map((value, j) => {
      const [x, y] = [LEFT + j * CELL, TOP + i * CELL];
      const ink = value > 0.6 ? '#fff' : '#222';
      const edge = i === j ? ' stroke="#222" stroke-width="2"' : '';
      return (
        `<rect x="${x}" y="${y}" width="${CELL - 2}" height="${CELL - 2}" fill="${colour(value)}"${edge}/>` +
        `<text x="${x + CELL / 2}" y="${y + CELL / 2 + 5}" text-anchor="middle" fill="${ink}">${(value * 100).toFixed(0)}</text>`
      );
    }),
  );
  const columns = names.map(
    (name, j) =>
      `<text x="${LEFT + j * CELL + CELL / 2}" y="${TOP - 10}" text-anchor="middle">${escaped(name)}</text>`,
  );
  const rows = names.map(
    (name, i) =>
      `<text x="${LEFT - 10}" y="${TOP + i * CELL + CELL / 2 + 5}" text-anchor="end">after ${escaped(name)}</text>`,
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="13" fill="#222"><rect width="100%" height="100%" fill="#fff"/><text x="10" y="24" font-size="16">${escaped(title)}</text>${columns.join('')}${rows.join('')}${cells.join('')}<text x="${LEFT}" y="${height - 14}">accuracy in %, tested on (column) after learning (row)</text></svg>\n`;
}
