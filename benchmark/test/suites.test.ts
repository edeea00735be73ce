import { describe, expect, it } from 'vitest';
import { dataHere } from '../src/data/data-here.ts';
import { jobFile, type PlannedCase, planJob, runCase, suiteNames } from '../src/index.ts';

/** Samples as texts, to find one in another set. */
function rows(samples: { inputs: Float32Array; size: number }): string[] {
  const width = samples.inputs.length / Math.max(1, samples.size);
  return Array.from({ length: samples.size }, (_, i) =>
    Buffer.from(samples.inputs.slice(i * width, (i + 1) * width).buffer).toString('base64'),
  );
}

async function firstCase(
  suite: string,
  isSmall: boolean,
  algorithm?: string,
): Promise<PlannedCase> {
  const { cases } = await planJob(jobFile(suite), isSmall);
  const found = cases.find((c) => algorithm === undefined || c.algorithm.name === algorithm);
  if (!found) throw new Error(`${suite} has no such case`);
  return found;
}

const FORMS = suiteNames().flatMap((suite) => [
  [suite, 'small'] as const,
  [suite, 'full'] as const,
]);

describe('shipped suites', () => {
  it.each(FORMS)(
    '%s, %s: no sample to learn from is tested on',
    async (suite, form) => {
      const planned = await firstCase(suite, form === 'small');
      expect(planned.problem).toBeUndefined();
      const { train, test, initial, tasks = [], participants = [] } = await dataHere(planned);
      const parts = [...tasks, ...participants];
      const learned = [train, ...(initial ? [initial] : []), ...parts.map((p) => p.train)];
      const held = new Set(parts.flatMap((p) => rows(p.test)));
      const tested = new Set(rows(test));
      const seen = learned.flatMap(rows);
      const alike = seen.filter((r) => held.has(r) || tested.has(r)).length;
      // Two patients may measure alike; two pictures do not.
      const isTable = test.shape.length === 1 && (test.shape[0] ?? 0) < 100;
      expect(alike).toBeLessThanOrEqual(isTable ? seen.length * 0.02 : 0);
      // A candidate is not accepted by samples it is tested on later (incremental learning).
      const judged = initial ? [...held].filter((r) => tested.has(r)) : [];
      expect(judged).toEqual([]);
    },
    60_000,
  );

  it('repeat with the seed, and only with it', async () => {
    const first = await firstCase('federated/heart-disease', true);
    const other = { ...first, seed: first.seed + 1 };
    expect(rows((await dataHere(first)).train)).toEqual(rows((await dataHere(first)).train));
    expect(rows((await dataHere(first)).train)).not.toEqual(rows((await dataHere(other)).train));
  });

  it('find no skill in a model that learned nothing, for its participants either', async () => {
    const planned = await firstCase('federated/digits', true, 'FedAvg');
    const federation = { ...planned.algorithm.federation, learningRate: 1e-9 };
    const { metrics } = await runCase(
      { ...planned, algorithm: { ...planned.algorithm, federation } },
      { signal: new AbortController().signal, environment: {}, progress: () => undefined },
    );
    expect(metrics['accuracy']).toBeLessThan(0.35);
    expect(metrics['participant_accuracy_p10']).toBeLessThan(0.35);
  }, 60_000);
});
