import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { JsonObject } from '@shoal/core';
import { ClusterFixture, template } from '../cluster-fixture.ts';

/**
 * `npm run bench:apply`: time from applying a job to its worker running on an edge, over 20 jobs.
 * Prints minimum, median and P99, and writes JSON to the file named by --json.
 */
const JOBS = 20;

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

const fixture = await ClusterFixture.start(1);
const times: number[] = [];
try {
  writeFileSync(fixture.path('edge-1', '/models/m.onnx'), 'x');
  await fixture.apply(
    sedna('Dataset', 'data', { url: '/data/d.txt', format: 'txt', nodeName: 'edge-1' }),
    sedna('Model', 'model', { url: '/models/m.onnx', format: 'onnx' }),
  );
  for (let i = 0; i < JOBS; i++) {
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
const sorted = times.toSorted((a, b) => a - b);
const at = (q: number): number =>
  Math.round(sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)] ?? 0);
const result = {
  jobs: JOBS,
  cores: availableParallelism(),
  minMs: at(0.0001),
  medianMs: at(0.5),
  p99Ms: at(0.99),
};
console.log(
  `apply → worker running on an edge, ${JOBS} jobs: min ${result.minMs} ms, median ${result.medianMs} ms, P99 ${result.p99Ms} ms`,
);
const file = process.argv[process.argv.indexOf('--json') + 1];
if (process.argv.includes('--json') && file) writeFileSync(file, `${JSON.stringify(result)}\n`);
