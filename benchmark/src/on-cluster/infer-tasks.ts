import { lifelongInferWorker, runWorker } from '@shoal/workers';
import { lifelongParts } from './lifelong-parts.ts';

await runWorker(
  'bench-infer-tasks',
  async (context) => await lifelongInferWorker(await lifelongParts(), context),
);
