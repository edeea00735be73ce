import { aggregateWorker, runWorker } from '@shoal/workers';

/** The cloud's side: rounds, strategy and quorum stand in the manifest. */
await runWorker('aggregator', aggregateWorker);
