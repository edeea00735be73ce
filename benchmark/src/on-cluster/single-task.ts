import { rmSync } from 'node:fs';
import { ShoalError } from '@shoal/core';
import type { Estimator } from '@shoal/lib';
import type { Observations } from '../paradigms/observations.ts';
import { resultsOn } from '../paradigms/single-task.ts';
import { CASE_FOLDER, type ClusterCase, container, podOf, removeAll, until } from './access.ts';

const MODEL = 'model.onnx';
const MAX_LOG = 1_000;

/** A pod in the cloud that trains the model and saves it; what it saved is asked here. */
export async function singleTaskOnCluster(c: ClusterCase): Promise<Observations> {
  const { access, context, data, name } = c;
  const path = access.nodePath(access.cloudNode, `/bench/${name}/${MODEL}`);
  const worker = container('train-once.ts', c, {
    env: [
      { name: 'MODEL_URL', value: `${CASE_FOLDER}/${MODEL}` },
      { name: 'SHOAL_BENCH_SHAPE', value: JSON.stringify(data.test.shape) },
    ],
  });
  const spec = { restartPolicy: 'Never', ...podOf(c, access.cloudNode, worker) };
  // One that was killed may have left its pod and its model.
  await removeAll(c, [['Pod', name]]);
  rmSync(path, { force: true });
  await access.apply([{ apiVersion: 'v1', kind: 'Pod', metadata: { name }, spec }]);
  try {
    const ended = await until(c, { kind: 'Pod', name, what: 'its end' }, ({ status }) => {
      const { phase } = (status ?? {}) as { phase?: string };
      return phase === 'Succeeded' || phase === 'Failed';
    });
    const { phase } = (ended.status ?? {}) as { phase?: string };
    if (phase === 'Failed')
      throw new ShoalError(
        'failed_precondition',
        `pod ${name} failed: ${(await access.logOf(name)).slice(-MAX_LOG)}`,
      );
    const model = await context.create<Estimator>('basemodel');
    await model.load(path);
    const test = await resultsOn(model, data.test);
    await model.close();
    return { test };
  } finally {
    await removeAll(c, [['Pod', name]]);
  }
}
