import { readFileSync } from 'node:fs';
import { ShoalError } from '@shoal/core';
import type { Estimator, Samples } from '@shoal/lib';
import type { BenchmarkSamples, DataPart } from '../data/benchmark-data.ts';
import { dataHere } from '../data/data-here.ts';
import { pick } from '../data/parts.ts';
import { roundsOf } from '../paradigms/incremental.ts';
import { moduleOf } from '../plan/module-file.ts';
import { plannedHere } from './planned.ts';

/**
 * A line of the job's dataset: which sample of a round was hard, or that a round's held-out samples
 * judge its candidate. The samples themselves are made where they are needed.
 */
export type Reference = { readonly round: number } & (
  | { readonly hard: number }
  | { readonly held: true }
);

function references(path: string): Reference[] {
  return readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => JSON.parse(line) as Reference);
}

/** The newest round of a file, and the numbers of its hard samples. */
function newest(path: string): { round: number; hard: number[] } {
  const all = references(path);
  const round = Math.max(0, ...all.map((r) => r.round));
  const hard = all.flatMap((r) => (r.round === round && 'hard' in r ? [r.hard] : []));
  return { round, hard };
}

async function partOf(round: number): Promise<DataPart> {
  const planned = plannedHere();
  const part = roundsOf(planned, await dataHere(planned))[round - 1];
  if (part) return part;
  throw new ShoalError('invalid_argument', `there is no round ${round}`);
}

/** Hard samples of the newest round, with their labels. */
export async function readHard(path: string): Promise<BenchmarkSamples> {
  const { round, hard } = newest(path);
  return pick((await partOf(round)).train, hard);
}

/** Held-out samples of the newest round. */
export async function readHeld(path: string): Promise<Samples> {
  return (await partOf(newest(path).round)).test;
}

/** A model of the case, as often as a worker needs one. */
export async function creator(): Promise<{
  create: () => Estimator;
  shape: readonly number[];
}> {
  const planned = plannedHere();
  const inputShape = JSON.parse(process.env['SHOAL_BENCH_SHAPE'] ?? '[]') as number[];
  const at = { folder: process.cwd(), signal: new AbortController().signal, inputShape };
  const made: Estimator[] = [];
  // Modules may take their time, a worker asks at once: two models are the most one needs.
  for (let i = 0; i < SPARE; i++) made.push(await moduleOf<Estimator>(planned, 'basemodel', at));
  return {
    shape: inputShape,
    create: () => {
      const next = made.pop();
      if (!next)
        throw new ShoalError('resource_exhausted', `more than ${SPARE} models were asked for`);
      return next;
    },
  };
}

/** Models a worker may ask for in its life: one for each swap of the served one. */
const SPARE = 24;
