import { readConfig, text } from '@shoal/core';
import type { Estimator } from '@shoal/lib';
import { runWorker } from '@shoal/workers';
import { dataHere } from '../data/data-here.ts';
import { moduleOf } from '../plan/module-file.ts';
import { plannedHere } from './planned.ts';

/** Trains the model of a case once and saves it. */
await runWorker('bench-train-once', async ({ signal }) => {
  const { MODEL_URL, SHOAL_BENCH_SHAPE } = readConfig<Record<string, string>>(
    {
      MODEL_URL: text('where the model is saved'),
      SHOAL_BENCH_SHAPE: text('dimensions of a sample, as JSON'),
    },
    process.env,
  );
  const planned = plannedHere();
  const { train } = await dataHere(planned);
  const inputShape = JSON.parse(SHOAL_BENCH_SHAPE ?? '[]') as number[];
  const at = { folder: process.cwd(), signal, inputShape };
  const model = await moduleOf<Estimator>(planned, 'basemodel', at);
  const metrics = train.size > 0 ? await model.train(train, { signal }) : {};
  await model.save(MODEL_URL ?? '');
  await model.close();
  return metrics;
});
