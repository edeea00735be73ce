import { seededRandom } from '@shoal/core';
import { expect, test } from 'vitest';
import { parseIdx } from './idx.ts';
import { parseImageLines, toImageLine } from './image-lines.ts';
import { batches, concatenate, type Samples, select, slice } from './samples.ts';

const SAMPLES: Samples = {
  inputs: Float32Array.of(0, 1, 2, 3, 4, 5),
  labels: BigInt64Array.of(0n, 1n, 2n),
  shape: [2],
  size: 3,
};

test('selecting, slicing and joining keep inputs and labels together', () => {
  expect(select(SAMPLES, [2, 0])).toMatchObject({
    inputs: Float32Array.of(4, 5, 0, 1),
    labels: BigInt64Array.of(2n, 0n),
    size: 2,
  });
  expect(slice(SAMPLES, 1, 9)).toMatchObject({ inputs: Float32Array.of(2, 3, 4, 5), size: 2 });
  expect(concatenate([SAMPLES, slice(SAMPLES, 0, 1)])).toMatchObject({
    size: 4,
    labels: BigInt64Array.of(0n, 1n, 2n, 0n),
  });
  expect(() => concatenate([SAMPLES, { ...SAMPLES, shape: [1, 2] }])).toThrow(/shape \[1, 2\]/);
});

test('batches hold every sample once', () => {
  const seen = [...batches(SAMPLES, 2, seededRandom(1))].flatMap((b) =>
    Array.from(b.labels, Number),
  );
  expect(seen.toSorted((a, b) => a - b)).toEqual([0, 1, 2]);
});

test('image lines survive a round trip', () => {
  const pixels = Float32Array.of(0, 1, 0.2, 51 / 255);
  const samples = parseImageLines(
    `${toImageLine(pixels, 7)}\n\n${toImageLine(pixels, 3)}\n`,
    [1, 2, 2],
    'x',
  );
  expect(samples.size).toBe(2);
  expect(Array.from(samples.labels)).toEqual([7n, 3n]);
  expect(samples.inputs[2]).toBeCloseTo(0.2, 2);
});

test.each([
  ['not json', /data\.jsonl line 2: not JSON/],
  ['{"image": 3, "label": 1}', /line 2: expected \{"image"/],
  [
    JSON.stringify({ image: Buffer.from([1, 2]).toString('base64'), label: 1 }),
    /line 2: the image has 2 pixels, expected 4/,
  ],
])('a broken line is named: %s', (line, message) => {
  const good = toImageLine(new Float32Array(4), 0);
  expect(() => parseImageLines(`${good}\n${line}\n`, [1, 2, 2], 'data.jsonl')).toThrow(message);
});

test('IDX files: header, big-endian sizes, length', () => {
  const file = Uint8Array.of(0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6);
  expect(parseIdx(file, 'f')).toEqual({ dims: [2, 3], data: Uint8Array.of(1, 2, 3, 4, 5, 6) });
  expect(() => parseIdx(file.subarray(0, 17), 'f')).toThrow(
    /shape \[2, 3\] needs 18 bytes, the file has 17/,
  );
  expect(() => parseIdx(Uint8Array.of(1, 2, 3, 4), 'f')).toThrow(/wrong magic/);
  expect(() => parseIdx(Uint8Array.of(0, 0, 13, 1, 0, 0, 0, 0), 'f')).toThrow(/element type 0xd/);
  expect(() => parseIdx(Uint8Array.of(0, 0, 8, 255), 'f')).toThrow(/255 dimensions/);
});
