import { readFileSync } from 'node:fs';
import { ShoalError } from '@shoal/core';
import type { Samples } from '@shoal/lib';
import { participateWorker, runWorker } from '@shoal/workers';
import { dataHere } from '../data/data-here.ts';
import { shareOut } from '../data/share-out.ts';
import { plannedHere } from './planned.ts';

/** The samples of the participant that a file names. */
async function read(path: string): Promise<Samples> {
  const { participant } = JSON.parse(readFileSync(path, 'utf8')) as { participant: number };
  const planned = plannedHere();
  const { testEnv, algorithm, seed } = planned;
  const partition = algorithm.partition ?? testEnv.partition;
  const shares = shareOut(await dataHere(planned), testEnv.clients, partition, seed);
  const own = shares[participant];
  if (own) return own.train;
  throw new ShoalError('invalid_argument', `there is no participant ${participant}`);
}

await runWorker(
  'bench-participant',
  async (context) => await participateWorker({ read, threads: 1 }, context),
);
