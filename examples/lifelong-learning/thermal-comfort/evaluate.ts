import { preparedWidth } from '@shoal/datasets';
import { evaluateTasksWorker, runWorker } from '@shoal/workers';
import { COMPONENTS, createComfort, readVotes } from './model.ts';

// Holds every new city's model against what answers for it now, and admits the good ones.
const width = Number(process.env['COMFORT_COLUMNS'] ?? 7);
const parts = {
  create: createComfort(preparedWidth(width)),
  components: COMPONENTS,
  read: readVotes,
};
await runWorker('comfort-evaluate', async (context) => await evaluateTasksWorker(parts, context));
