import { aggregateWorker, runWorker } from '@shoal/workers';

// Selection and the order of samples follow the seed of the case, as they do without a cluster.
const options = JSON.parse(process.env['FEDERATED_OPTIONS'] ?? '{}') as object;
const seed = Number(process.env['SHOAL_BENCH_SEED']);
process.env['FEDERATED_OPTIONS'] = JSON.stringify({ ...options, seed });

await runWorker('bench-aggregator', aggregateWorker);
