import { preparedWidth } from '@shoal/datasets';
import { learnTasksWorker, runWorker } from '@shoal/workers';
import { COMPONENTS, createComfort, readVotes } from './model.ts';

// Finds the cities in new votes and trains a model for each.
const width = Number(process.env['COMFORT_COLUMNS'] ?? 7);
const parts = {
  create: createComfort(preparedWidth(width)),
  components: COMPONENTS,
  read: readVotes,
};
await runWorker('comfort-learn', async (context) => await learnTasksWorker(parts, context));
