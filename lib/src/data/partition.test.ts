import { seededRandom } from '@shoal/core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  dirichletPartition,
  iidPartition,
  quantityPartition,
  shardPartition,
} from './partition.ts';

const LABELS = BigInt64Array.from({ length: 2_000 }, (_, i) => BigInt(i % 10));
const random = (seed = 1): ReturnType<typeof seededRandom> => seededRandom(seed);

function expectWhole(parts: readonly Uint32Array[], size: number): void {
  const all = parts.flatMap((p) => [...p]).toSorted((a, b) => a - b);
  expect(all).toEqual(Array.from({ length: size }, (_, i) => i));
}

test('every sample goes to exactly one participant, whatever the partition', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 0, max: 999 }), (n, seed) => {
      expectWhole(iidPartition(2_000, n, random(seed)), 2_000);
      expectWhole(dirichletPartition(LABELS, n, { alpha: 0.5, random: random(seed) }), 2_000);
      expectWhole(shardPartition(LABELS, n, { shardsEach: 2, random: random(seed) }), 2_000);
      expectWhole(quantityPartition(2_000, n, { alpha: 0.5, random: random(seed) }), 2_000);
    }),
    { numRuns: 25 },
  );
});

/** Mean share of a participant's most common class. */
function skew(parts: readonly Uint32Array[]): number {
  const tops = parts.map((p) => {
    const counts = new Map<bigint, number>();
    for (const i of p) counts.set(LABELS[i] ?? 0n, (counts.get(LABELS[i] ?? 0n) ?? 0) + 1);
    return Math.max(...counts.values()) / p.length;
  });
  return tops.reduce((a, b) => a + b, 0) / tops.length;
}

test('alpha sets the skew, two shards mean about two classes, and seeds repeat', () => {
  const at = (alpha: number): number =>
    skew(dirichletPartition(LABELS, 10, { alpha, random: random(2) }));
  expect(at(0.1)).toBeGreaterThan(at(1));
  expect(at(1)).toBeGreaterThan(at(100));
  expect(at(100)).toBeLessThan(0.16);
  expect(skew(shardPartition(LABELS, 10, { shardsEach: 2, random: random() }))).toBeGreaterThan(
    0.45,
  );
  expect(dirichletPartition(LABELS, 5, { alpha: 0.3, random: random(7) })).toEqual(
    dirichletPartition(LABELS, 5, { alpha: 0.3, random: random(7) }),
  );
  expect(() => iidPartition(3, 4, random())).toThrow(/3 samples cannot be shared out among 4/);
  expect(() => dirichletPartition(LABELS, 3, { alpha: 0, random: random() })).toThrow(
    /alpha must be > 0/,
  );
});
