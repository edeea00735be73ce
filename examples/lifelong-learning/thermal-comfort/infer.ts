import { preparedWidth } from '@shoal/datasets';
import { lifelongInferWorker, runWorker } from '@shoal/workers';
import { COMPONENTS, createComfort } from './model.ts';

// Answers at the edge with the city's model; votes of cities nobody knows go to the knowledge base.
const width = Number(process.env['COMFORT_COLUMNS'] ?? 7);
const parts = { create: createComfort(preparedWidth(width)), components: COMPONENTS };
await runWorker('comfort-infer', async (context) => await lifelongInferWorker(parts, context));
