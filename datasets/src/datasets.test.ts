import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parseCsv, splitCsvLine } from './csv.ts';
import { generateDigits } from './digits.ts';
import { parseHospital, readHeartDisease } from './heart-disease.ts';
import { locateDataset, pullDataset, searchFolders } from './locate.ts';
import { DATASETS } from './manifest.ts';
import { readMnist } from './mnist.ts';
import { readThermalComfort } from './thermal-comfort.ts';

test('the same seed gives the same digits; pixels are in [0, 1] and classes about equally many', () => {
  const digits = generateDigits({ count: 400, seed: 7 });
  expect(generateDigits({ count: 400, seed: 7 })).toEqual(digits);
  expect(generateDigits({ count: 400, seed: 8 }).inputs).not.toEqual(digits.inputs);
  expect(digits.inputs.every((p) => p >= 0 && p <= 1)).toBe(true);
  const counts = Array.from(
    { length: 10 },
    (_, d) => digits.labels.filter((l) => l === BigInt(d)).length,
  );
  expect(Math.min(...counts)).toBeGreaterThan(20);
});

test('drift changes the pixels, not the labels', () => {
  const before = generateDigits({ count: 50, seed: 7 });
  const after = generateDigits({ count: 50, seed: 7, drift: { rotation: 30, fading: 0.4 } });
  const mean = (v: Float32Array): number => v.reduce((a, b) => a + b, 0) / v.length;
  expect(mean(after.inputs)).toBeGreaterThan(mean(before.inputs)); // the paper darkens
  expect(after.shape).toEqual(before.shape);
});

test('CSV: quotes, escaped quotes, empty fields, and a line that does not fit', () => {
  expect(splitCsvLine('a,"b, ""c""",,d')).toEqual(['a', 'b, "c"', '', 'd']);
  expect(parseCsv('x,y\n1,2\n3,\n', 'f').get('y')).toEqual(['2', '']);
  expect(() => parseCsv('x,y\n1,2\n3\n', 'f.csv')).toThrow(
    /f\.csv line 3: 1 fields, the header has 2/,
  );
});

test('Heart Disease: 13 features, missing values, disease or not', () => {
  const row = '63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,0';
  const { size, features, labels } = parseHospital(
    'va',
    `${row}\n${row.replace('233.0', '?').replace(/0$/, '3')}\n`,
  );
  expect(size).toBe(2);
  expect(features[4]).toBe(233);
  expect(features[13 + 4]).toBeNaN();
  expect(Array.from(labels)).toEqual([0, 1]);
  expect(() => parseHospital('va', '1,2,3\n')).toThrow(
    /processed\.va\.data line 1: 3 fields, expected 14/,
  );
});

test('a data set is found in a folder only when every file has its checksum', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'shoal-data-'));
  mkdirSync(join(folder, 'mnist'));
  for (const file of DATASETS[0]?.files ?? [])
    writeFileSync(join(folder, 'mnist', file.name), 'not it');
  expect(locateDataset('mnist', [folder])).toBeUndefined();
  rmSync(folder, { recursive: true });
  await expect(pullDataset('cifar')).rejects.toThrow(
    /no data set "cifar"; there are: mnist, heart-disease, thermal-comfort/,
  );
});

/** Real data, where this machine has it: a folder in SHOAL_DATASETS, or the one beside the project. */
const folders = [...searchFolders(), join(import.meta.dirname, '../../../shared/datasets')].filter(
  (f) => existsSync(f),
);
const real = (name: string): string | undefined => locateDataset(name, folders)?.folder;

test.runIf(real('mnist') && real('heart-disease') && real('thermal-comfort'))(
  'the real files have the published sizes',
  () => {
    expect(readMnist(real('mnist') ?? '').size).toBe(10_000);
    expect(readHeartDisease(real('heart-disease') ?? '').map((h) => h.size)).toEqual([
      303, 294, 123, 200,
    ]);
    const { votes, buildings } = readThermalComfort(real('thermal-comfort') ?? '');
    expect(votes.get('thermal_preference')).toHaveLength(109_033);
    expect(buildings.get('building_id')?.length).toBe(809);
  },
);
