import { seededRandom } from '@shoal/core';
import {
  CLIMATES,
  COMFORT_COLUMNS,
  comfortRows,
  PREFERENCES,
  pullDataset,
  readThermalComfort,
  simulateVotes,
} from '@shoal/datasets';
import { select, type TaskSamples } from '@shoal/lib';
import type { DataKind } from '../../src/example.ts';

/** Votes of one city, as they were measured. */
export interface City {
  readonly name: string;
  readonly train: TaskSamples;
  readonly test: TaskSamples;
}

export interface Cities {
  /** Names of the features. */
  readonly columns: readonly string[];
  /** Cities of a seed in the order they come; the last one is a stranger to the others. */
  readonly ofSeed: (seed: number) => readonly City[];
}

const VOTES = 500;
const HELD_OUT = 200;
/** Cities of the database; Kota Kinabalu comes later. */
const NAMES = ['athens', 'ottawa', 'bangkok', 'harbin', 'kota kinabalu'];
const MOST_VOTES = 900;

function simulated(): Cities {
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
async function measured(): Promise<Cities> {
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
      NAMES.map((name) => {
        const own = Array.from(rows.cities.keys()).filter((i) => rows.cities[i] === name);
        const groups = [...new Set(own.map((i) => rows.groups[i] ?? ''))];
        const order = seededRandom(seed).fork(name).permutation(groups.length);
        const held = new Set(Array.from(order.subarray(0, groups.length * 0.3), (g) => groups[g]));
        const isHeld = (i: number): boolean => held.has(rows.groups[i] ?? '');
        return {
          name,
          train: part(own.filter((i) => !isHeld(i)).slice(0, MOST_VOTES)),
          test: part(own.filter(isHeld).slice(0, HELD_OUT)),
        };
      }),
  };
}

/** Where votes come from: the simulator, or the database. */
export async function citiesOf(kind: DataKind): Promise<Cities> {
  return kind === 'ashrae' ? await measured() : simulated();
}

/** Votes as lines of CSV, without the head. */
export function linesOf(votes: TaskSamples): string[] {
  const width = votes.inputs.length / votes.size;
  return Array.from({ length: votes.size }, (_, i) => {
    const row = Array.from(votes.inputs.subarray(i * width, (i + 1) * width), (v) =>
      Number.isNaN(v) ? '' : v.toFixed(4),
    );
    const { city, season } = votes.attributes;
    return [...row, city?.[i], season?.[i], PREFERENCES[Number(votes.labels[i])]].join(',');
  });
}
