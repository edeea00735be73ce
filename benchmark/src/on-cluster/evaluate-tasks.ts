import { evaluateTasksWorker, runWorker } from '@shoal/workers';
import { lifelongParts } from './lifelong-parts.ts';

await runWorker(
  'bench-evaluate-tasks',
  async (context) => await evaluateTasksWorker(await lifelongParts(), context),
);
