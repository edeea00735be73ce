import { evaluateWorker, runWorker } from '@shoal/workers';
import { creator, readHeld } from './incremental-parts.ts';

const { create } = await creator();
await runWorker(
  'bench-evaluate-held',
  async (context) => await evaluateWorker({ create, read: readHeld }, context),
);
