import { learnTasksWorker, runWorker } from '@shoal/workers';
import { lifelongParts } from './lifelong-parts.ts';

await runWorker(
  'bench-learn',
  async (context) => await learnTasksWorker(await lifelongParts(), context),
);
