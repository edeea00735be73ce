import { type Random, seededRandom } from '@shoal/core';
import { type ComfortRows, comfortRows, locateDataset, readThermalComfort } from '@shoal/datasets';
import { type Samples, select } from '@shoal/lib';

export const CLASSES = 3;

export function loadRows(): ComfortRows {
  const located = locateDataset('thermal-comfort');
  if (!located)
    throw new Error('the ASHRAE database is not here: shoal dataset pull thermal-comfort');
  return comfortRows(readThermalComfort(located.folder));
}

/** Positions of rows, by city. */
export function byCity(rows: ComfortRows, positions: Iterable<number>): Map<string, number[]> {
  const found = new Map<string, number[]>();
  for (const i of positions) {
    const city = rows.cities[i] ?? '';
    const list = found.get(city) ?? [];
    list.push(i);
    found.set(city, list);
  }
  return found;
}

/** Deals whole groups out until each part has its share of the rows. */
export function dealGroups(
  rows: ComfortRows,
  positions: readonly number[],
  shares: readonly number[],
  random: Random,
): number[][] {
  const groups = new Map<string, number[]>();
  for (const i of positions) {
    const group = rows.groups[i] ?? '';
    const list = groups.get(group) ?? [];
    list.push(i);
    groups.set(group, list);
  }
  const lists = [...groups.values()];
  const parts: number[][] = shares.map(() => []);
  let part = 0;
  for (const g of random.permutation(lists.length)) {
    while (
      part < shares.length - 1 &&
      (parts[part]?.length ?? 0) >= (shares[part] ?? 0) * positions.length
    )
      part++;
    parts[part]?.push(...(lists[g] ?? []));
  }
  return parts;
}

export interface Split {
  readonly train: readonly number[];
  readonly test: readonly number[];
}

/** 30 % of each city's rows for testing, whole groups. */
export function splitRows(rows: ComfortRows, seed: number): Split {
  const random = seededRandom(seed).fork('split');
  const [train, test]: [number[], number[]] = [[], []];
  for (const positions of byCity(rows, rows.cities.keys()).values()) {
    const [held = [], rest = []] = dealGroups(rows, positions, [0.3, 0.7], random);
    test.push(...held);
    train.push(...rest);
  }
  return { train, test };
}

/** Rows as trees want them: NaN where a value is missing. */
export function treeSamples(rows: ComfortRows, positions: readonly number[]): Samples {
  const all = {
    inputs: rows.inputs,
    labels: rows.labels,
    shape: [rows.names.length],
    size: rows.size,
  };
  return select(all, positions);
}

/** Centres and scales by statistics of some rows, with an indicator beside each column that misses some. */
export function networkSamples(
  rows: ComfortRows,
  known: readonly number[],
): (positions: readonly number[]) => Samples {
  const width = rows.names.length;
  const statistics = rows.names.map((_, f) => {
    const values = known
      .map((i) => rows.inputs[i * width + f] ?? Number.NaN)
      .filter((v) => v === v);
    const mean = values.reduce((a, b) => a + b, 0) / Math.max(1, values.length);
    const square = values.reduce((a, v) => a + (v - mean) ** 2, 0) / Math.max(1, values.length);
    return { mean, deviation: Math.max(1e-3, Math.sqrt(square)) };
  });
  return (positions) => {
    const inputs = new Float32Array(positions.length * width * 2);
    for (const [at, i] of positions.entries()) {
      for (const [f, { mean, deviation }] of statistics.entries()) {
        const value = rows.inputs[i * width + f] ?? Number.NaN;
        const missing = Number.isNaN(value);
        const scaled = missing ? 0 : Math.max(-5, Math.min(5, (value - mean) / deviation));
        inputs[at * width * 2 + f] = scaled;
        inputs[at * width * 2 + width + f] = missing ? 1 : 0;
      }
    }
    const labels = BigInt64Array.from(positions, (i) => rows.labels[i] ?? 0n);
    return { inputs, labels, shape: [width * 2], size: positions.length };
  };
}

/** Share of rows whose likeliest class is the label. */
export function accuracyOf(
  probabilities: ArrayLike<number>,
  labels: ArrayLike<number | bigint>,
): number {
  let hits = 0;
  for (let i = 0; i < labels.length; i++) {
    let best = 0;
    for (let k = 1; k < CLASSES; k++)
      if ((probabilities[i * CLASSES + k] ?? 0) > (probabilities[i * CLASSES + best] ?? 0))
        best = k;
    if (best === Number(labels[i])) hits++;
  }
  return hits / labels.length;
}

/** F1 averaged over the classes that occur. */
export function macroF1(
  probabilities: ArrayLike<number>,
  labels: ArrayLike<number | bigint>,
): number {
  const [hits, said, there] = [0, 1, 2].map(() => new Float64Array(CLASSES)) as [
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  for (let i = 0; i < labels.length; i++) {
    let best = 0;
    for (let k = 1; k < CLASSES; k++)
      if ((probabilities[i * CLASSES + k] ?? 0) > (probabilities[i * CLASSES + best] ?? 0))
        best = k;
    const label = Number(labels[i]);
    said[best] = (said[best] ?? 0) + 1;
    there[label] = (there[label] ?? 0) + 1;
    if (best === label) hits[label] = (hits[label] ?? 0) + 1;
  }
  const scores = [0, 1, 2]
    .filter((k) => (there[k] ?? 0) > 0)
    .map((k) => (2 * (hits[k] ?? 0)) / ((said[k] ?? 0) + (there[k] ?? 0)));
  return scores.reduce((a, b) => a + b, 0) / scores.length;
}
