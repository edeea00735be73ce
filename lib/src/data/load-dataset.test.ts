import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parquetWriteBuffer } from 'hyparquet-writer';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { loadDataset, toSamples } from './load-dataset.ts';
import { parseNpy, toNpy } from './npy.ts';

let dir: string;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'shoal-data-'));
  for (const [kind, grey] of [
    ['cats', 0],
    ['dogs', 255],
  ] as const) {
    mkdirSync(join(dir, 'images', kind), { recursive: true });
    for (const n of [1, 2])
      await sharp({
        create: { width: 6, height: 4, channels: 3, background: { r: grey, g: grey, b: 51 } },
      })
        .png()
        .toFile(join(dir, 'images', kind, `${n}.png`));
  }
});
afterAll(() => rmSync(dir, { recursive: true }));

test('images in folders by class: grey or colour, of the size that is asked for', async () => {
  const colour = await loadDataset(join(dir, 'images'));
  expect([colour.shape, colour.size, [...colour.targets]]).toEqual([[3, 4, 6], 4, [0, 0, 1, 1]]);
  const planes = [0, 24, 48].map((at) => colour.inputs[72 * 2 + at]);
  expect(planes.map((v) => Number(v?.toFixed(2)))).toEqual([1, 1, 0.2]);
  const grey = await loadDataset(join(dir, 'images'), { shape: [1, 2, 2] });
  expect([grey.shape, grey.inputs.length]).toEqual([[1, 2, 2], 16]);
  expect(toSamples(grey, 'x').labels).toEqual(BigInt64Array.of(0n, 0n, 1n, 1n));
});

test('an index lists images beside it; what lies outside its folder is refused', async () => {
  const index = join(dir, 'images/index.txt');
  writeFileSync(index, 'dogs/1.png 1\ncats/2.png 0\n');
  expect([...(await loadDataset(index)).targets]).toEqual([1, 0]);
  for (const name of ['/etc/hostname', '../secret.png']) {
    writeFileSync(index, `dogs/1.png 1\n${name} 0\n`);
    await expect(loadDataset(index)).rejects.toThrow(`line 2: ${name} is outside`);
  }
  writeFileSync(index, 'dogs/1.png\n');
  await expect(loadDataset(index)).rejects.toThrow('line 1: expected "<image file> <class>"');
});

test('what is no image, no number, no class or not there is named', async () => {
  mkdirSync(join(dir, 'broken/a'), { recursive: true });
  writeFileSync(join(dir, 'broken/a/x.png'), 'nothing');
  await expect(loadDataset(join(dir, 'broken'))).rejects.toThrow('a/x.png is not an image');
  await expect(loadDataset(join(dir, 'nowhere'))).rejects.toThrow('there is no dataset');
  writeFileSync(join(dir, 'x.parquet'), 'PAR1 and nothing');
  await expect(loadDataset(join(dir, 'x.parquet'))).rejects.toThrow('is not a Parquet file');
  const half = {
    inputs: Float32Array.of(1),
    targets: Float32Array.of(0.5),
    shape: [1],
    targetWidth: 1,
    size: 1,
  };
  expect(() => toSamples(half, 'h.csv')).toThrow('the target of sample 1 is 0.5');
});

test('Parquet: numbers, lists of numbers, encoded images; compressed or not', async () => {
  const table = join(dir, 'table.parquet');
  const write = (
    name: string,
    columnData: Parameters<typeof parquetWriteBuffer>[0]['columnData'],
  ) => writeFileSync(name, Buffer.from(parquetWriteBuffer({ columnData, codec: 'SNAPPY' })));
  write(table, [
    { name: 'a', data: [1, 2, 3], type: 'INT32' },
    { name: 'label', data: [0n, 1n, 1n], type: 'INT64' },
    { name: 'b', data: [0.5, 1.5, 2.5], type: 'DOUBLE' },
  ]);
  const read = await loadDataset(table);
  expect([[...read.inputs], [...read.targets], read.shape]).toEqual([
    [1, 0.5, 2, 1.5, 3, 2.5],
    [0, 1, 1],
    [2],
  ]);
  await expect(loadDataset(table, { target: 'c' })).rejects.toThrow(
    'no column "c"; it has: a, label, b',
  );
  const images = join(dir, 'images.parquet');
  const png = (kind: string): Uint8Array => readFileSync(join(dir, 'images', kind, '1.png'));
  write(images, [
    { name: 'image', data: [png('cats'), png('dogs')], type: 'BYTE_ARRAY' },
    { name: 'label', data: [0, 1], type: 'INT32' },
  ]);
  const pictures = await loadDataset(images, { shape: [3, 1, 1] });
  expect([...pictures.inputs].map((v) => Number(v.toFixed(2)))).toEqual([0, 0, 0.2, 1, 1, 0.2]);
  write(table, [
    { name: 'a', data: ['x', 'y'], type: 'STRING' },
    { name: 'label', data: [0, 1], type: 'INT32' },
  ]);
  await expect(loadDataset(table)).rejects.toThrow(/row 1, column "a"/);
});

test('a folder with x.npy and y.npy', async () => {
  const folder = join(dir, 'arrays');
  mkdirSync(folder);
  writeFileSync(join(folder, 'x.npy'), toNpy([2, 3], Float32Array.of(1, 2, 3, 4, 5, 6)));
  await expect(loadDataset(folder)).rejects.toThrow('has no array "y"');
  writeFileSync(join(folder, 'y.npy'), toNpy([2], Float32Array.of(0, 1)));
  const read = await loadDataset(folder);
  expect([read.shape, read.size, [...read.targets]]).toEqual([[3], 2, [0, 1]]);
});

test('what is written as NumPy is read as it was', () => {
  const values = Float32Array.of(0, 1.5, -2, 3e-8, 4, 5);
  expect(parseNpy(toNpy([2, 3], values), 'x')).toEqual({ dims: [2, 3], values });
  expect(parseNpy(toNpy([6], values), 'x').dims).toEqual([6]);
  const bytes = Buffer.from(toNpy([6], values));
  expect((10 + bytes.readUInt16LE(8)) % 64).toBe(0);
});
