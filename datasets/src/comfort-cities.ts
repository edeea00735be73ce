import { seededRandom } from '@shoal/core';
import { select, type TaskSamples } from '@shoal/lib';
import { comfortRows, PREFERENCES } from './comfort-rows.ts';
import { CLIMATES, COMFORT_COLUMNS, simulateVotes } from './comfort-simulator.ts';
import { pullDataset } from './locate.ts';
import { readThermalComfort } from './thermal-comfort.ts';

/** Votes of one city, as they were measured. */
export interface ComfortCity {
  readonly name: string;
  readonly train: TaskSamples;
  readonly test: TaskSamples;
}

export interface ComfortCities {
  /** Names of the features. */
  readonly columns: readonly string[];
  /** Cities of a seed in the order they come; the last one is a stranger to the others. */
  readonly ofSeed: (seed: number) => readonly ComfortCity[];
}

const VOTES = 500;
const HELD_OUT = 200;
/** Cities of the database; Kota Kinabalu comes later. */
const NAMES = ['athens', 'ottawa', 'bangkok', 'harbin', 'kota kinabalu'];
const MOST_VOTES = 900;

function simulated(): ComfortCities {
  const votes = (index: number, count: number, seed: number): TaskSamples => {
    const climate = CLIMATES[index];
    if (!climate) throw new Error(`there is no climate ${index}`);
    const { inputs, labels, cities, seasons, size } = simulateVotes(climate, { count, seed });
    const shape = [COMFORT_COLUMNS.length];
    return { inputs, labels, shape, size, attributes: { city: cities, season: seasons } };
  };
  return {
    columns: COMFORT_COLUMNS,
    ofSeed: (seed) =>
      CLIMATES.map(({ city }, i) => ({
        name: city,
        train: votes(i, VOTES, 10 + seed),
        test: votes(i, HELD_OUT, 100 + seed),
      })),
  };
}

/** The ASHRAE database: whole groups (a person, a day) are either learned from or held out. */
async function measured(options: {
  readonly names?: readonly string[];
  readonly mostVotes?: number;
}): Promise<ComfortCities> {
  const { names = NAMES, mostVotes = MOST_VOTES } = options;
  const { folder } = await pullDataset('thermal-comfort');
  const rows = comfortRows(readThermalComfort(folder));
  const all = {
    inputs: rows.inputs,
    labels: rows.labels,
    shape: [rows.names.length],
    size: rows.size,
  };
  const part = (positions: readonly number[]): TaskSamples => ({
    ...select(all, positions),
    attributes: {
      city: positions.map((i) => rows.cities[i] ?? ''),
      season: positions.map((i) => rows.seasons[i] ?? ''),
    },
  });
  return {
    columns: rows.names,
    ofSeed: (seed) =>
      names.map((name) => {
        const own = Array.from(rows.cities.keys()).filter((i) => rows.cities[i] === name);
        const groups = [...new Set(own.map((i) => rows.groups[i] ?? ''))];
        const order = seededRandom(seed).fork(name).permutation(groups.length);
        const held = new Set(Array.from(order.subarray(0, groups.length * 0.3), (g) => groups[g]));
        const isHeld = (i: number): boolean => held.has(rows.groups[i] ?? '');
        return {
          name,
          train: part(own.filter((i) => !isHeld(i)).slice(0, mostVotes)),
          test: part(own.filter(isHeld).slice(0, HELD_OUT)),
        };
      }),
  };
}

/**
 * Where votes come from: the simulator (`generated`), or the database (`ashrae`), of which some cities can
 * be named.
 */
export async function comfortCities(
  kind: string,
  options: { readonly names?: readonly string[]; readonly mostVotes?: number } = {},
): Promise<ComfortCities> {
  return kind === 'ashrae' ? await measured(options) : simulated();
}

/** Votes as lines of CSV, without the head. */
export function comfortLines(votes: TaskSamples): string[] {
  const width = votes.inputs.length / votes.size;
  return Array.from({ length: votes.size }, (_, i) => {
    const row = Array.from(votes.inputs.subarray(i * width, (i + 1) * width), (v) =>
      Number.isNaN(v) ? '' : v.toFixed(4),
    );
    const { city, season } = votes.attributes;
    return [...row, city?.[i], season?.[i], PREFERENCES[Number(votes.labels[i])]].join(',');
  });
}

/** Usual values and their spread by column; other columns are shares and stay as they are. */
const RANGES: Readonly<Record<string, readonly [number, number]>> = {
  ta: [25, 4],
  tr: [25, 4],
  radiant: [25, 4],
  vel: [0.2, 0.2],
  rh: [50, 20],
  met: [1.15, 0.15],
  clo: [0.7, 0.35],
  tout: [20, 10],
  outdoor: [20, 10],
  'running mean outdoor': [20, 10],
  age: [35, 12],
};

/**
 * Values scaled to the ranges of rooms, so that a network may start from any city; a missing value
 * becomes 0 and is marked in a second block of columns, when the data misses some.
 */
export function preparedVotes(votes: TaskSamples, columns: readonly string[]): TaskSamples {
  const width = columns.length;
  const marked = columns.length > 7;
  const out = marked ? width * 2 : width;
  const inputs = new Float32Array(votes.size * out);
  for (let i = 0; i < votes.inputs.length; i++) {
    const f = i % width;
    const at = Math.floor(i / width) * out + f;
    const value = votes.inputs[i] ?? Number.NaN;
    const [centre, spread] = RANGES[columns[f] ?? ''] ?? [0, 1];
    inputs[at] = Number.isNaN(value) ? 0 : (value - centre) / spread;
    if (marked) inputs[at + width] = Number.isNaN(value) ? 1 : 0;
  }
  return { ...votes, inputs, shape: [out] };
}

/** Width of what {@link preparedVotes} gives. */
export function preparedWidth(columns: number): number {
  return columns > 7 ? columns * 2 : columns;
}
