/** A point of a scatter plot or of a line, in the units of its axes. */
export interface Point {
  readonly x: number;
  readonly y: number;
  readonly label: string;
  /** Shown, but no competitor. */
  readonly isBound?: boolean;
}

export interface Series {
  readonly name: string;
  readonly points: readonly Omit<Point, 'label'>[];
}

const WIDTH = 640;
const HEIGHT = 340;
const [LEFT, RIGHT, TOP, BOTTOM] = [64, 170, 34, 44];
const COLOURS = [
  '#0057b8',
  '#d1495b',
  '#2e8b57',
  '#8a5a00',
  '#7b4ab8',
  '#00838f',
  '#c2185b',
  '#5d6d00',
] as const;

export function escaped(text: string): string {
  return text.replace(/[<>&"']/g, (c) => `&#${c.codePointAt(0) ?? 0};`);
}

interface Axis {
  readonly low: number;
  readonly high: number;
  readonly at: (value: number) => number;
  readonly ticks: readonly number[];
}

/** A step of 1, 2 or 5 times a power of ten. */
function stepOf(span: number): number {
  const power = 10 ** Math.floor(Math.log10(span / 5));
  return [1, 2, 5, 10].map((k) => k * power).find((s) => span / s <= 6) ?? power * 10;
}

function axis(values: readonly number[], from: number, to: number): Axis {
  const [min, max] = [Math.min(...values), Math.max(...values)];
  const pad = max > min ? 0 : Math.max(1e-9, Math.abs(max) * 0.1 || 1);
  const step = stepOf(max - min + 2 * pad);
  const low = Math.floor((min - pad) / step) * step;
  const high = Math.ceil((max + pad) / step) * step;
  const ticks: number[] = [];
  for (let t = low; t <= high + step / 2; t += step) ticks.push(t);
  return { low, high, ticks, at: (v) => from + ((v - low) / (high - low)) * (to - from) };
}

function number(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e9) return `${Number((value / 1e9).toPrecision(3))}G`;
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
  return String(Number(value.toPrecision(3)));
}

function frame(
  x: Axis,
  y: Axis,
  labels: { readonly x: string; readonly y: string; readonly title: string },
): string {
  const right = WIDTH - RIGHT;
  const bottom = HEIGHT - BOTTOM;
  const rows = y.ticks.map(
    (t) =>
      `<line x1="${LEFT}" x2="${right}" y1="${y.at(t).toFixed(1)}" y2="${y.at(t).toFixed(1)}" class="grid"/><text x="${LEFT - 8}" y="${(y.at(t) + 4).toFixed(1)}" text-anchor="end">${number(t)}</text>`,
  );
  const columns = x.ticks.map(
    (t) =>
      `<text x="${x.at(t).toFixed(1)}" y="${bottom + 18}" text-anchor="middle">${number(t)}</text>`,
  );
  return `<text x="8" y="20" class="title">${escaped(labels.title)}</text>${rows.join('')}${columns.join('')}<text x="${LEFT}" y="${HEIGHT - 6}">${escaped(labels.x)}</text><text x="${LEFT}" y="${TOP - 4}" class="axis">${escaped(labels.y)}</text>`;
}

function svg(body: string): string {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" role="img">${body}</svg>`;
}

const LABEL_HEIGHT = 14;

/** Heights of labels moved down until none hides another. */
function apart(heights: readonly number[]): number[] {
  const moved = [...heights];
  let free = Number.NEGATIVE_INFINITY;
  const order = heights.map((_, i) => i).toSorted((i, j) => (heights[i] ?? 0) - (heights[j] ?? 0));
  for (const k of order) {
    moved[k] = Math.max(heights[k] ?? 0, free);
    free = (moved[k] ?? 0) + LABEL_HEIGHT;
  }
  return moved;
}

export interface ChartLabels {
  readonly title: string;
  readonly x: string;
  readonly y: string;
}

/** Lines with their names at their ends. */
export function lines(labels: ChartLabels, series: readonly Series[]): string {
  const points = series.flatMap((s) => s.points);
  const x = axis(
    points.map((p) => p.x),
    LEFT,
    WIDTH - RIGHT,
  );
  const y = axis(
    points.map((p) => p.y),
    HEIGHT - BOTTOM,
    TOP,
  );
  const heights = apart(series.map((s) => y.at(s.points.at(-1)?.y ?? 0)));
  const drawn = series.map(({ name, points: own }, k) => {
    const colour = COLOURS[k % COLOURS.length];
    const path = own.map((p) => `${x.at(p.x).toFixed(1)},${y.at(p.y).toFixed(1)}`).join(' ');
    return `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"/><text x="${WIDTH - RIGHT + 8}" y="${((heights[k] ?? 0) + 4).toFixed(1)}" fill="${colour}">${escaped(name)}</text>`;
  });
  return svg(frame(x, y, labels) + drawn.join(''));
}

/** Points that no other beats in both: fewer of x, more of y. */
export function paretoFront(points: readonly Point[]): Point[] {
  const best: Point[] = [];
  const competing = points.filter((p) => !p.isBound);
  for (const p of competing.toSorted((a, b) => a.x - b.x || b.y - a.y))
    if (p.y > (best.at(-1)?.y ?? Number.NEGATIVE_INFINITY)) best.push(p);
  return best;
}

/** Points with their names, and a line along those that no other beats. */
export function scatter(labels: ChartLabels, points: readonly Point[]): string {
  const x = axis(
    points.map((p) => p.x),
    LEFT,
    WIDTH - RIGHT,
  );
  const y = axis(
    points.map((p) => p.y),
    HEIGHT - BOTTOM,
    TOP,
  );
  const front = paretoFront(points);
  const path = front.map((p) => `${x.at(p.x).toFixed(1)},${y.at(p.y).toFixed(1)}`).join(' ');
  const heights = apart(points.map((p) => y.at(p.y)));
  const drawn = points.map((p, k) => {
    const colour = COLOURS[k % COLOURS.length];
    const dot = `<circle cx="${x.at(p.x).toFixed(1)}" cy="${y.at(p.y).toFixed(1)}" r="5" fill="${colour}"${front.includes(p) ? ' class="front"' : ''}/>`;
    return `${dot}<text x="${WIDTH - RIGHT + 8}" y="${((heights[k] ?? 0) + 4).toFixed(1)}" fill="${colour}">${escaped(p.label)}</text>`;
  });
  return svg(`${frame(x, y, labels)}<polyline points="${path}" class="pareto"/>${drawn.join('')}`);
}

const CELL = 54;
const NAMES = 150;

/** R[i][j] in percent: a row for each task learned, a column for each task tested. */
export function heatMap(
  title: string,
  names: readonly string[],
  matrix: readonly (readonly number[])[],
): string {
  const [width, height] = [NAMES + names.length * CELL + 20, 70 + matrix.length * CELL + 10];
  const shade = (v: number): string => {
    const mix = (a: number, b: number): number =>
      Math.round(a + (b - a) * Math.min(1, Math.max(0, v)));
    return `rgb(${mix(255, 8)},${mix(255, 64)},${mix(229, 129)})`;
  };
  const cells = matrix.flatMap((row, i) =>
    row.map((v, j) => {
      const [left, top] = [NAMES + j * CELL, 70 + i * CELL];
      return `<rect x="${left}" y="${top}" width="${CELL - 2}" height="${CELL - 2}" fill="${shade(v)}"${i === j ? ' class="own"' : ''}/><text x="${left + CELL / 2}" y="${top + CELL / 2 + 5}" text-anchor="middle" fill="${v > 0.6 ? '#fff' : '#222'}">${(v * 100).toFixed(0)}</text>`;
    }),
  );
  const short = (name: string): string =>
    escaped(name.length > 18 ? `${name.slice(0, 17)}…` : name);
  const heads = names.map(
    (name, j) =>
      `<text x="${NAMES + j * CELL + CELL / 2}" y="${j % 2 === 0 ? 62 : 46}" text-anchor="middle" font-size="10">${short(name)}</text>`,
  );
  const rows = names.map(
    (name, i) =>
      `<text x="${NAMES - 8}" y="${70 + i * CELL + CELL / 2 + 5}" text-anchor="end">after ${short(name)}</text>`,
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img"><text x="8" y="20" class="title">${escaped(title)}</text>${heads.join('')}${rows.join('')}${cells.join('')}</svg>`;
}
