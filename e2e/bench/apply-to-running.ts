import { writeFileSync } from 'node:fs';
import type { JsonObject } from '@shoal/core';
import { ClusterFixture, template } from '../cluster-fixture.ts';

const sedna = (kind: string, name: string, spec: JsonObject): JsonObject => ({
  apiVersion: 'sedna.io/v1alpha1',
  kind,
  metadata: { name },
  spec,
});

function job(name: string): JsonObject {
  const sleeper = template('edge-1', ['node', '-e', 'setInterval(() => {}, 1000)']);
  const trigger = { condition: { operator: '>', threshold: 1, metric: 'num_of_samples' } };
  return sedna('IncrementalLearningJob', name, {
    dataset: { name: 'data', trainProb: 0.5 },
    initialModel: { name: 'model' },
    outputDir: `/output/${name}`,
    trainSpec: { template: sleeper, trigger },
    evalSpec: { template: sleeper },
    deploySpec: {
      model: { name: 'model' },
      trigger,
      hardExampleMining: { name: 'IBT' },
      template: sleeper,
    },
  });
}

/**
 * Time from applying a job to its worker running on an edge, on a cluster of its own.
 *
 * @returns Milliseconds, one for each job.
 */
export async function applyToRunning(jobs: number): Promise<number[]> {
  const fixture = await ClusterFixture.start(1);
  const times: number[] = [];
  try {
    writeFileSync(fixture.path('edge-1', '/models/m.onnx'), 'x');
    await fixture.apply(
      sedna('Dataset', 'data', { url: '/data/d.txt', format: 'txt', nodeName: 'edge-1' }),
      sedna('Model', 'model', { url: '/models/m.onnx', format: 'onnx' }),
    );
    for (let i = 0; i < jobs; i++) {
      const startedAt = performance.now();
      await fixture.apply(job(`bench-${i}`));
      await fixture.until(
        'a running worker',
        async () => (await fixture.pods(`bench-${i}-inference`))[0]?.status?.phase === 'Running',
      );
      times.push(performance.now() - startedAt);
      await fixture.resources.remove('il', 'default', `bench-${i}`);
    }
  } finally {
    await fixture.stop();
  }
  return times;
}
