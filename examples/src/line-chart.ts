const WIDTH = 560;
const HEIGHT = 320;
const [LEFT, RIGHT, TOP, BOTTOM] = [52, 150, 40, 40];
const LABEL_HEIGHT = 15;
const COLOURS = ['#0057b8', '#d1495b', '#2e8b57', '#8a5a00'];

export interface Line {
  readonly name: string;
  /** Shares in [0, 1], one per round; a single one is drawn across. */
  readonly values: readonly number[];
}

function escaped(text: string): string {
  return text.replace(/[<>&"]/g, (c) => `&#${c.codePointAt(0) ?? 0};`);
}

/** Places of labels moved down until none hides another, in the order given. */
function apart(places: readonly number[]): number[] {
  const moved = [...places];
  let free = Number.NEGATIVE_INFINITY;
  for (const k of places.map((_, i) => i).toSorted((i, j) => (places[i] ?? 0) - (places[j] ?? 0))) {
    moved[k] = Math.max(places[k] ?? 0, free);
    free = (moved[k] ?? 0) + LABEL_HEIGHT;
  }
  return moved;
}

/** Shares by round as a picture, from the lowest ten percent that is reached up to 100 %. */
export function lineChartSvg(title: string, lines: readonly Line[]): string {
  const rounds = Math.max(2, ...lines.map((l) => l.values.length));
  const lowest = Math.min(1, ...lines.flatMap((l) => l.values));
  const floor = Math.min(0.9, Math.floor(lowest * 10) / 10);
  const x = (i: number): number => LEFT + (i / (rounds - 1)) * (WIDTH - LEFT - RIGHT);
  const y = (v: number): number => TOP + ((1 - v) / (1 - floor)) * (HEIGHT - TOP - BOTTOM);
  const ticks = Array.from({ length: Math.round((1 - floor) * 10) + 1 }, (_, k) => floor + k / 10);
  const grid = ticks.map(
    (v) =>
      `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(v).toFixed(1)}" y2="${y(v).toFixed(1)}" stroke="#ddd"/>` +
      `<text x="${LEFT - 8}" y="${(y(v) + 4).toFixed(1)}" text-anchor="end">${Math.round(v * 100)}</text>`,
  );
  const axis = Array.from(
    { length: rounds },
    (_, i) =>
      `<text x="${x(i).toFixed(1)}" y="${HEIGHT - BOTTOM + 18}" text-anchor="middle">${i}</text>`,
  );
  const heights = apart(lines.map(({ values }) => y(values.at(-1) ?? 0)));
  const drawn = lines.map(({ name, values }, k) => {
    const colour = COLOURS[k % COLOURS.length];
    const [only = 0] = values;
    const all = values.length === 1 ? Array.from({ length: rounds }, () => only) : values;
    const points = all.map((v, i) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`).join(' ');
    const dash = values.length === 1 ? ' stroke-dasharray="6 4"' : '';
    const last = all.at(-1) ?? 0;
    return (
      `<polyline points="${points}" fill="none" stroke="${colour}" stroke-width="2"${dash}/>` +
      `<text x="${WIDTH - RIGHT + 8}" y="${((heights[k] ?? 0) + 4).toFixed(1)}" fill="${colour}">${escaped(name)} ${(last * 100).toFixed(1)}</text>`
    );
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${HEIGHT}" font-family="sans-serif" font-size="12" fill="#222"><rect width="100%" height="100%" fill="#fff"/><text x="10" y="22" font-size="15">${escaped(title)}</text>${grid.join('')}${axis.join('')}${drawn.join('')}<text x="${LEFT}" y="${HEIGHT - 6}">rounds done; accuracy in %</text></svg>\n`;
}
