import { seededRandom } from '@shoal/core';
import type { Hospital } from './heart-disease.ts';

/** Columns of a hospital's file that FLamby keeps: the last three are missing too often. */
const KEPT = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const COLUMNS = 13;
/** Categories, one-hot without their first level: chest pain and resting ECG. */
const LEVELS: Readonly<Record<number, readonly number[]>> = { 2: [2, 3, 4], 6: [1, 2] };

/** Names of the features of {@link heartRows}. */
export const HEART_FEATURES: readonly string[] = [
  'age',
  'sex',
  'chest pain 2',
  'chest pain 3',
  'chest pain 4',
  'blood pressure',
  'cholesterol',
  'fasting sugar',
  'ECG 1',
  'ECG 2',
  'heart rate',
  'angina',
  'ST depression',
];

/** A patient as a row of numbers: {@link HEART_FEATURES}, and 1 where heart disease was found. */
export interface HeartRow {
  readonly features: readonly number[];
  readonly label: number;
}

/** Complete rows of a hospital, prepared as FLamby does (du Terrail et al. 2022, arXiv 2210.04620, §B.3). */
export function heartRows(hospital: Hospital): HeartRow[] {
  const rows: HeartRow[] = [];
  for (let i = 0; i < hospital.size; i++) {
    const raw = KEPT.map((c) => hospital.features[i * COLUMNS + c] ?? Number.NaN);
    if (raw.some(Number.isNaN)) continue;
    const features = KEPT.flatMap((c, k) => {
      const levels = LEVELS[c];
      return levels ? levels.map((l) => (raw[k] === l ? 1 : 0)) : [raw[k] ?? 0];
    });
    rows.push({ features, label: hospital.labels[i] ?? 0 });
  }
  return rows;
}

/** Sizes and shares of the ill as in the published hospitals; patients differ between them. */
const MADE: readonly { name: Hospital['name']; size: number; ill: number; older: number }[] = [
  { name: 'cleveland', size: 303, ill: 0.46, older: 0 },
  { name: 'hungarian', size: 261, ill: 0.37, older: -7 },
  { name: 'switzerland', size: 46, ill: 0.85, older: 1 },
  { name: 'va', size: 130, ill: 0.74, older: 5 },
];

/** Made-up hospitals in the shape of the published ones: for tests and demonstrations, not for medicine. */
export function generateHospitals(seed: number): Hospital[] {
  return MADE.map(({ name, size, ill, older }) => {
    const random = seededRandom(seed).fork(name);
    const labels = new Uint8Array(size);
    const features = new Float32Array(size * COLUMNS);
    for (let i = 0; i < size; i++) {
      const isIll = random.next() < ill;
      const chance = (healthy: number, sick: number): number =>
        random.next() < (isIll ? sick : healthy) ? 1 : 0;
      const around = (healthy: number, sick: number, spread: number): number =>
        Math.round((isIll ? sick : healthy) + spread * random.normal());
      labels[i] = isIll ? 1 : 0;
      features.set(
        [
          around(52, 57, 8.5) + older,
          chance(0.56, 0.82),
          chance(0.25, 0.72) === 1 ? 4 : 1 + random.int(3),
          around(129, 135, 17),
          around(238, 252, 50),
          chance(0.12, 0.17),
          random.int(3),
          around(156, 140, 21),
          chance(0.16, 0.55),
          Math.max(0, around(6, 15, 9) / 10),
          Number.NaN,
          Number.NaN,
          Number.NaN,
        ],
        i * COLUMNS,
      );
    }
    return { name, features, labels, size };
  });
}
