import { aggregateWorker, runWorker } from '@shoal/workers';
import { plannedHere } from './planned.ts';

// Selection and the order of samples follow the seed of the case, as they do without a cluster.
const options = JSON.parse(process.env['FEDERATED_OPTIONS'] ?? '{}') as object;
process.env['FEDERATED_OPTIONS'] = JSON.stringify({ ...options, seed: plannedHere().seed });

await runWorker('bench-aggregator', aggregateWorker);
