import { runWorker, trainWorker } from '@shoal/workers';
import { creator, readHard } from './incremental-parts.ts';

const { create } = await creator();
await runWorker(
  'bench-train-hard',
  async (context) => await trainWorker({ create, read: readHard }, context),
);
