import { type Random, ShoalError, seededRandom } from '@shoal/core';
import type { SplitOptions } from '../config/test-env.ts';
import type { BenchmarkSamples, DataPart } from './benchmark-data.ts';
import { pick } from './parts.ts';

function upTo(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i);
}

/** Positions dealt out so that every class is spread over the order as evenly as it can be. */
function stratifiedOrder(labels: ArrayLike<bigint>, random: Random): number[] {
  const classes = new Map<bigint, number[]>();
  for (const i of random.permutation(labels.length)) {
    const label = labels[i] ?? 0n;
    classes.set(label, [...(classes.get(label) ?? []), i]);
  }
  const placed = [...classes.values()].flatMap((members) =>
    members.map((i, k) => ({ i, at: (k + 0.5) / members.length })),
  );
  return placed.toSorted((a, b) => a.at - b.at).map((p) => p.i);
}

/** The order in which samples are cut into parts. */
function orderOf(samples: BenchmarkSamples, options: SplitOptions, random: Random): number[] {
  switch (options.method) {
    case 'shuffled':
      return [...random.permutation(samples.size)];
    case 'stratified':
      return stratifiedOrder(samples.labels, random);
    case 'ordered':
    case 'by':
    case 'classes':
      return upTo(samples.size);
  }
}

function expectColumn(samples: BenchmarkSamples, attribute: string): readonly string[] {
  const column = samples.attributes[attribute];
  if (column) return column;
  throw new ShoalError(
    'invalid_argument',
    `split: the samples have no attribute "${attribute}"; they have: ${Object.keys(samples.attributes).join(', ') || 'none'}`,
  );
}

/** Positions by value, in the order values are first met. */
function byValue(column: readonly string[]): Map<string, number[]> {
  const found = new Map<string, number[]>();
  for (const [i, value] of column.entries()) found.set(value, [...(found.get(value) ?? []), i]);
  return found;
}

/** Classes cut into `parts` groups, in the order of their numbers. */
export function classGroups(samples: BenchmarkSamples, parts: number): bigint[][] {
  const classes = [...new Set(samples.labels)].toSorted((a, b) => Number(a - b));
  if (classes.length < parts)
    throw new ShoalError(
      'invalid_argument',
      `${classes.length} classes cannot make ${parts} tasks; incremental_rounds is too large`,
    );
  return upTo(parts).map((t) =>
    classes.slice(
      Math.floor((t * classes.length) / parts),
      Math.floor(((t + 1) * classes.length) / parts),
    ),
  );
}

function held(
  samples: BenchmarkSamples,
  positions: readonly number[],
  options: SplitOptions,
): {
  train: BenchmarkSamples;
  test: BenchmarkSamples;
} {
  const cut = Math.max(1, Math.floor(positions.length * options.trainRatio));
  return {
    train: pick(samples, positions.slice(0, cut)),
    test: pick(samples, positions.slice(cut)),
  };
}

/**
 * Samples as a sequence of parts, each with a held-out share.
 *
 * `ordered` cuts them as they come, `shuffled` and `stratified` after the seed has mixed them, `by` makes
 * a part of every value of an attribute, `classes` one of every group of classes.
 */
export function splitInto(
  samples: BenchmarkSamples,
  parts: number,
  options: SplitOptions,
  seed: number,
): DataPart[] {
  const random = seededRandom(seed).fork('split');
  if (options.method === 'by')
    return [...byValue(expectColumn(samples, options.attribute))].map(([name, positions]) => ({
      name,
      ...held(samples, shuffled(positions, random), options),
    }));
  if (options.method === 'classes')
    return classGroups(samples, parts).map((classes) => {
      const own = upTo(samples.size).filter((i) => classes.includes(samples.labels[i] ?? -1n));
      return {
        name: `classes ${classes.join(' ')}`,
        ...held(samples, shuffled(own, random), options),
      };
    });
  if (samples.size < parts)
    throw new ShoalError('invalid_argument', `${samples.size} samples cannot make ${parts} parts`);
  const order = orderOf(samples, options, random);
  const size = Math.floor(order.length / parts);
  return upTo(parts).map((k) => ({
    name: `part ${k + 1}`,
    ...held(samples, order.slice(k * size, k === parts - 1 ? undefined : (k + 1) * size), options),
  }));
}

function shuffled(positions: readonly number[], random: Random): number[] {
  return Array.from(random.permutation(positions.length), (i) => positions[i] ?? 0);
}
