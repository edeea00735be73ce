import { type Random, seededRandom } from '@shoal/core';
import { predictedMeanVote } from './predicted-mean-vote.ts';

/** A city whose buildings people vote in. */
export interface Climate {
  readonly city: string;
  /** Usual indoor temperature and its spread, °C. */
  readonly indoor: number;
  readonly spread: number;
  /** Usual relative humidity, %. */
  readonly humidity: number;
  /** Usual clothing, clo. */
  readonly clothing: number;
  /** The vote people there call neutral: warm climates accept warmth (de Dear & Brager 1998). */
  readonly neutral: number;
  /** Usual air velocity, m/s: fans and open windows. */
  readonly velocity: number;
}

/** Cities of the simulator, the last one a stranger to the others. */
export const CLIMATES: readonly Climate[] = [
  {
    city: 'athens',
    indoor: 27,
    spread: 2.2,
    humidity: 45,
    clothing: 0.5,
    neutral: 0.7,
    velocity: 0.15,
  },
  {
    city: 'ottawa',
    indoor: 22,
    spread: 1.4,
    humidity: 30,
    clothing: 0.95,
    neutral: -0.3,
    velocity: 0.08,
  },
  {
    city: 'bangkok',
    indoor: 28.5,
    spread: 1.8,
    humidity: 65,
    clothing: 0.5,
    neutral: 1.1,
    velocity: 0.3,
  },
  {
    city: 'harbin',
    indoor: 21,
    spread: 2,
    humidity: 35,
    clothing: 1.25,
    neutral: 0.5,
    velocity: 0.06,
  },
  {
    city: 'kota kinabalu',
    indoor: 30,
    spread: 1.5,
    humidity: 78,
    clothing: 0.35,
    neutral: 2,
    velocity: 0.5,
  },
];

/** Columns of a simulated vote, in order. */
export const COMFORT_COLUMNS: readonly string[] = ['ta', 'tr', 'vel', 'rh', 'met', 'clo', 'tout'];

export interface SimulatedVotes {
  /** `[size, 7]` in the order of {@link COMFORT_COLUMNS}. */
  readonly inputs: Float32Array;
  /** 0 cooler, 1 no change, 2 warmer. */
  readonly labels: BigInt64Array;
  readonly cities: readonly string[];
  readonly seasons: readonly string[];
  readonly size: number;
}

/** How far from neutral a vote must be before someone wants a change. */
const INDIFFERENCE = 0.55;
/** People in the same room differ. */
const PERSONAL = 0.45;

function vote(climate: Climate, winter: boolean, random: Random): { row: number[]; label: bigint } {
  const airTemperature = climate.indoor + (winter ? -1.5 : 0.8) + climate.spread * random.normal();
  const conditions = {
    airTemperature,
    radiantTemperature: airTemperature + 0.8 * random.normal(),
    airVelocity: Math.max(0.02, climate.velocity * (1 + 0.5 * random.normal())),
    humidity: Math.min(95, Math.max(10, climate.humidity + 8 * random.normal())),
    metabolicRate: Math.max(1, 1.15 + 0.1 * random.normal()),
    clothing: Math.max(0.2, climate.clothing + (winter ? 0.25 : -0.05) + 0.1 * random.normal()),
  };
  const outdoor = climate.indoor + (winter ? -9 : 3) + 3 * random.normal();
  const felt = predictedMeanVote(conditions) - climate.neutral + PERSONAL * random.normal();
  const row = [
    conditions.airTemperature,
    conditions.radiantTemperature,
    conditions.airVelocity,
    conditions.humidity,
    conditions.metabolicRate,
    conditions.clothing,
    outdoor,
  ];
  return { row, label: felt > INDIFFERENCE ? 0n : felt < -INDIFFERENCE ? 2n : 1n };
}

/**
 * Votes on thermal preference in one city: conditions drawn around the city's, sensation by ISO 7730,
 * preference by how far it is from what people there call neutral.
 *
 * @param options.seed The same seed gives the same votes.
 */
export function simulateVotes(
  climate: Climate,
  options: { readonly count: number; readonly seed: number },
): SimulatedVotes {
  const random = seededRandom(options.seed).fork(climate.city);
  const width = COMFORT_COLUMNS.length;
  const inputs = new Float32Array(options.count * width);
  const labels = new BigInt64Array(options.count);
  const seasons: string[] = [];
  for (let i = 0; i < options.count; i++) {
    const winter = random.next() < 0.5;
    const { row, label } = vote(climate, winter, random);
    inputs.set(row, i * width);
    labels[i] = label;
    seasons.push(winter ? 'winter' : 'summer');
  }
  const cities = seasons.map(() => climate.city);
  return { inputs, labels, cities, seasons, size: options.count };
}
