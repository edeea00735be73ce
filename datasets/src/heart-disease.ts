import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ShoalError } from '@shoal/core';

/** One hospital's patients. */
export interface Hospital {
  readonly name: 'cleveland' | 'hungarian' | 'switzerland' | 'va';
  /** Row-major `[size, 13]`: age, sex, cp, trestbps, chol, fbs, restecg, thalach, exang, oldpeak, slope, ca, thal; NaN where missing. */
  readonly features: Float32Array;
  /** 1 where heart disease was found (label > 0), else 0; `[size]`. */
  readonly labels: Uint8Array;
  readonly size: number;
}

const HOSPITALS = ['cleveland', 'hungarian', 'switzerland', 'va'] as const;
const COLUMNS = 14;

/** Parses one hospital's file: 14 comma-separated numbers a line, missing ones as NaN, ? or -9. */
export function parseHospital(name: Hospital['name'], text: string): Hospital {
  const rows = text
    .split(/\r?\n/)
    .filter((l) => l.trim() !== '')
    .map((line, i) => {
      const fields = line.split(',').map((f) => (f.trim() === '?' ? Number.NaN : Number(f)));
      if (fields.length !== COLUMNS) {
        throw new ShoalError(
          'data_corrupt',
          `processed.${name}.data line ${i + 1}: ${fields.length} fields, expected ${COLUMNS}`,
        );
      }
      return fields.map((f) => (f === -9 ? Number.NaN : f));
    });
  const features = Float32Array.from(rows.flatMap((r) => r.slice(0, COLUMNS - 1)));
  const labels = Uint8Array.from(rows, (r) => ((r[COLUMNS - 1] ?? 0) > 0 ? 1 : 0));
  return { name, features, labels, size: rows.length };
}

/** Reads UCI Heart Disease from the folder of `pullDataset('heart-disease')`: a naturally federated set. */
export function readHeartDisease(folder: string): Hospital[] {
  return HOSPITALS.map((name) =>
    parseHospital(name, readFileSync(join(folder, `processed.${name}.data`), 'utf8')),
  );
}
