import { readFileSync } from 'node:fs';
import { ShoalError } from '@shoal/core';
import type { Samples } from '@shoal/lib';
import { participateWorker, runWorker } from '@shoal/workers';
import { dataHere } from '../data/data-here.ts';
import { shareOut } from '../data/share-out.ts';
import { ClassTasks } from '../paradigms/class-tasks.ts';
import { labelledOnly } from '../paradigms/federated.ts';
import { plannedHere } from './planned.ts';

interface Told {
  readonly participant: number;
  /** Of tasks with new classes: which one it learns. */
  readonly task?: number;
}

/** The samples of the participant that a file names. */
async function read(path: string): Promise<Samples> {
  const { participant, task } = JSON.parse(readFileSync(path, 'utf8')) as Told;
  const planned = plannedHere();
  const { testEnv, algorithm, seed } = planned;
  const data = await dataHere(planned);
  const partition = algorithm.partition ?? testEnv.partition;
  const own =
    task === undefined
      ? labelledOnly(shareOut(data, testEnv.clients, partition, seed), algorithm.labelRatio, seed)[
          participant
        ]?.train
      : new ClassTasks(planned, data).samplesOf(task)[participant];
  if (own) return own;
  throw new ShoalError('invalid_argument', `there is no participant ${participant}`);
}

await runWorker(
  'bench-participant',
  async (context) => await participateWorker({ read, threads: 1 }, context),
);
