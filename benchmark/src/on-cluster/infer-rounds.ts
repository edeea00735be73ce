import { inferWorker, runWorker } from '@shoal/workers';
import { creator } from './incremental-parts.ts';

const { create, shape } = await creator();
const probe = new Float32Array(shape.reduce((n, d) => n * d, 1));
await runWorker(
  'bench-infer-rounds',
  async (context) => await inferWorker({ create, probe }, context),
);
