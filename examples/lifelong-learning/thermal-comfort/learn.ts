import { learnTasksWorker, runWorker } from '@shoal/workers';
import { COMPONENTS, createComfort, readVotes, widthOf } from './model.ts';

// Finds the cities in new votes and trains a model for each.
const width = Number(process.env['COMFORT_COLUMNS'] ?? 7);
const parts = { create: createComfort(widthOf(width)), components: COMPONENTS, read: readVotes };
await runWorker('comfort-learn', async (context) => await learnTasksWorker(parts, context));
