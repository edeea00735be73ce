import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PARTITION_METHODS, SPLIT_METHODS } from '../config/test-env.ts';
import type { BenchmarkSamples } from './benchmark-data.ts';
import { shareOut } from './share-out.ts';
import { splitInto } from './split.ts';

/** Samples whose one value is their number, so that each can be followed. */
function numbered(size: number, classes = 4): BenchmarkSamples {
  return {
    inputs: Float32Array.from({ length: size }, (_, i) => i),
    labels: BigInt64Array.from({ length: size }, (_, i) => BigInt((i * 7) % classes)),
    shape: [1],
    size,
    attributes: { city: Array.from({ length: size }, (_, i) => `city ${i % 3}`) },
  };
}

const split = { attribute: 'city', trainRatio: 0.8 };
const partition = { alpha: 0.5, shardsEach: 2, classRatio: 0.5, attribute: 'city' };

describe('splitting a sequence', () => {
  it.each(SPLIT_METHODS)('%s puts every sample into exactly one place', (method) => {
    fc.assert(
      fc.property(
        fc.integer({ min: 40, max: 200 }),
        fc.integer({ min: 1, max: 4 }),
        fc.nat(99),
        (size, parts, seed) => {
          const found = splitInto(numbered(size), parts, { ...split, method }, seed).flatMap(
            (p) => [...p.train.inputs, ...p.test.inputs],
          );
          expect(found.toSorted((a, b) => a - b)).toEqual(
            Array.from({ length: size }, (_, i) => i),
          );
        },
      ),
      { numRuns: 30 },
    );
  });

  it('is the same for the same seed, and another for another', () => {
    const of = (seed: number): number[] => [
      ...(splitInto(numbered(100), 2, { ...split, method: 'shuffled' }, seed)[0]?.train.inputs ??
        []),
    ];
    expect(of(1)).toEqual(of(1));
    expect(of(1)).not.toEqual(of(2));
  });

  it('keeps the order where it is asked to', () => {
    const [first] = splitInto(numbered(100), 2, { ...split, method: 'ordered' }, 5);
    expect([...(first?.train.inputs ?? [])]).toEqual(Array.from({ length: 40 }, (_, i) => i));
  });

  it('gives every part the same mixture when stratified', () => {
    const parts = splitInto(numbered(400), 4, { ...split, method: 'stratified' }, 3);
    for (const { train } of parts)
      for (let k = 0n; k < 4n; k++) {
        const share = [...train.labels].filter((l) => l === k).length / train.size;
        expect(share).toBeGreaterThan(0.2);
        expect(share).toBeLessThan(0.3);
      }
  });

  it('names the attributes there are', () => {
    expect(() =>
      splitInto(numbered(10), 2, { ...split, method: 'by', attribute: 'season' }, 1),
    ).toThrow(/no attribute "season"; they have: city/);
  });
});

describe('sharing samples out', () => {
  it.each(PARTITION_METHODS)('%s gives every sample to exactly one participant', (method) => {
    for (const seed of [1, 2, 3]) {
      const samples = numbered(240);
      const data = { train: samples, test: samples };
      const found = shareOut(data, 4, { ...partition, method }, seed).flatMap((s) => [
        ...s.train.inputs,
      ]);
      expect(found.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 240 }, (_, i) => i));
    }
  });

  it('finds participants by nature', () => {
    const data = { train: numbered(9), test: numbered(9) };
    const shares = shareOut(data, 99, { ...partition, method: 'natural' }, 1);
    expect(shares.map((s) => [s.name, s.train.size])).toEqual([
      ['city 0', 3],
      ['city 1', 3],
      ['city 2', 3],
    ]);
  });
});
