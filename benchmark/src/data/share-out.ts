import { type Random, ShoalError, seededRandom } from '@shoal/core';
import { dirichletPartition, iidPartition, quantityPartition, shardPartition } from '@shoal/lib';
import type { PartitionOptions } from '../config/test-env.ts';
import type { BenchmarkData, BenchmarkSamples } from './benchmark-data.ts';
import { pick } from './parts.ts';

/** Samples of one participant. */
export interface Share {
  readonly name: string;
  readonly train: BenchmarkSamples;
  /** Held-out samples of its own, where the data knows participants. */
  readonly test?: BenchmarkSamples;
}

/** Every participant draws some classes; a class is shared by those who drew it. */
function byDrawnClasses(
  labels: BigInt64Array,
  participants: number,
  ratio: number,
  random: Random,
): number[][] {
  const classes = [...new Set(labels)].toSorted((a, b) => Number(a - b));
  const each = Math.max(1, Math.floor(classes.length * ratio));
  const drawn = Array.from({ length: participants }, () =>
    Array.from(random.permutation(classes.length).subarray(0, each), (k) => classes[k] ?? 0n),
  );
  const parts = drawn.map((): number[] => []);
  for (const label of classes) {
    const owners = drawn.flatMap((own, k) => (own.includes(label) ? [k] : []));
    // What nobody drew would be lost: one participant, in turn, gets it.
    const sharing = owners.length > 0 ? owners : [Number(label) % participants];
    const members = Array.from(labels.keys()).filter((i) => labels[i] === label);
    for (const [at, i] of members.entries()) parts[sharing[at % sharing.length] ?? 0]?.push(i);
  }
  const empty = parts.findIndex((p) => p.length === 0);
  if (empty >= 0)
    throw new ShoalError(
      'failed_precondition',
      `participant ${empty + 1} of ${participants} got no samples; ask for fewer, or a larger class_ratio`,
    );
  return parts;
}

function positionsOf(
  samples: BenchmarkSamples,
  participants: number,
  options: PartitionOptions,
  random: Random,
): readonly ArrayLike<number>[] {
  const { labels, size } = samples;
  switch (options.method) {
    case 'iid':
      return iidPartition(size, participants, random);
    case 'dirichlet':
      return dirichletPartition(labels, participants, { alpha: options.alpha, random, least: 2 });
    case 'shards':
      return shardPartition(labels, participants, { shardsEach: options.shardsEach, random });
    case 'quantity':
      return quantityPartition(size, participants, { alpha: options.alpha, random });
    case 'classes':
      return byDrawnClasses(labels, participants, options.classRatio, random);
    case 'natural':
      throw new Error('natural participants are no partition');
  }
}

function natural(data: BenchmarkData, attribute: string): Share[] {
  if (data.participants) return [...data.participants];
  const column = data.train.attributes[attribute];
  if (!column)
    throw new ShoalError(
      'invalid_argument',
      `partition natural: the data names no participants and its samples have no attribute "${attribute}"; they have: ${Object.keys(data.train.attributes).join(', ') || 'none'}`,
    );
  return [...new Set(column)].map((name) => ({
    name,
    train: pick(
      data.train,
      Array.from(column.keys()).filter((i) => column[i] === name),
    ),
  }));
}

/** The participants of a case and their samples; the seed decides who has what. */
export function shareOut(
  data: BenchmarkData,
  participants: number,
  options: PartitionOptions,
  seed: number,
): Share[] {
  if (options.method === 'natural') return natural(data, options.attribute);
  const random = seededRandom(seed).fork('partition');
  return positionsOf(data.train, participants, options, random).map((positions, k) => ({
    name: `participant ${k + 1}`,
    train: pick(data.train, positions),
  }));
}
