import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { type CaseOutcome, planJob, runCase } from '../src/index.ts';

const SUITES = join(import.meta.dirname, '../suites');
const dir = mkdtempSync(join(tmpdir(), 'shoal-paradigms-'));
afterAll(() => rmSync(dir, { recursive: true }));

/** Runs every case of a job with one algorithm here, in this process. */
async function outcomes(testEnv: string, algorithm: string): Promise<CaseOutcome[]> {
  writeFileSync(join(dir, 'testenv.yaml'), testEnv);
  writeFileSync(join(dir, 'algorithm.yaml'), algorithm);
  writeFileSync(
    join(dir, 'job.yaml'),
    `benchmarkingjob:
  name: some
  testenv: ./testenv.yaml
  seeds: [1]
  test_object: { type: algorithms, algorithms: [{ name: a, url: ./algorithm.yaml }] }
`,
  );
  const { cases } = await planJob(join(dir, 'job.yaml'));
  const found: CaseOutcome[] = [];
  for (const c of cases)
    found.push(
      await runCase(c, {
        signal: new AbortController().signal,
        environment: {},
        progress: () => undefined,
      }),
    );
  return found;
}

const DIGITS = `testenv:
  dataset: { url: ${SUITES}/shared/digits.ts, hyperparameters: { train: 600, test: 200 } }
`;
const BASE = `    - { type: basemodel, name: federatedDigits, url: ${SUITES}/shared/federated-digits.ts }
`;

describe('federated class-incremental learning', () => {
  it('forgets earlier classes, and less when participants keep some of each', async () => {
    const [without, kept] = await outcomes(
      `${DIGITS}  incremental_rounds: 2
  round: 4
  client_number: 3
  metrics: [ACC, forgetting, BWT, bytes_up, MATRIX]
`,
      `algorithm:
  paradigm_type: federatedclassincrementallearning
  federation: { local_epochs: 2, learning_rate: 0.1, memory_per_class: { values: [0, 10] } }
  modules:
${BASE}    - { type: aggregation, name: FedAvg }
`,
    );
    expect(without?.taskNames).toEqual(['classes 0 1 2 3 4', 'classes 5 6 7 8 9']);
    expect(without?.matrix?.map((row) => row.length)).toEqual([2, 2]);
    expect(without?.metrics['forgetting']).toBeGreaterThan(0.3);
    expect(kept?.metrics['forgetting']).toBeLessThan(without?.metrics['forgetting'] ?? 0);
    expect(kept?.metrics['acc']).toBeGreaterThan(without?.metrics['acc'] ?? 1);
    expect(without?.metrics['bytes_up']).toBeGreaterThan(0);
  }, 60_000);
});

describe('federated learning in a world', () => {
  it('takes longer behind a satellite, and the same for the figures that do not depend on it', async () => {
    const [near, far] = await outcomes(
      `${DIGITS}  round: 2
  client_number: 3
  network: { profile: { values: [factory LAN, satellite] } }
  metrics: [accuracy, bytes_up, virtual_time]
`,
      `algorithm:
  paradigm_type: federatedlearning
  modules:
${BASE}    - { type: aggregation, name: FedAvg }
`,
    );
    expect(far?.metrics['accuracy']).toBe(near?.metrics['accuracy']);
    expect(far?.metrics['bytes_up']).toBe(near?.metrics['bytes_up']);
    expect(far?.metrics['virtual_time']).toBeGreaterThan((near?.metrics['virtual_time'] ?? 0) + 1);
  }, 60_000);

  it('goes on when devices go away, with the same figures every time', async () => {
    const env = `${DIGITS}  round: 4
  client_number: 4
  devices: { availability: { on_share: 0.5, period_seconds: 3 }, train_ms_per_sample: 5 }
  metrics: [accuracy, virtual_time]
`;
    const algorithm = `algorithm:
  paradigm_type: federatedlearning
  modules:
${BASE}    - { type: aggregation, name: FedAvg }
`;
    const [first] = await outcomes(env, algorithm);
    const [second] = await outcomes(env, algorithm);
    expect(second?.metrics).toEqual(first?.metrics);
    expect(second?.curve).toEqual(first?.curve);
    expect(first?.metrics['virtual_time']).toBeGreaterThan(0);
  }, 60_000);
});

describe('joint inference in a world', () => {
  const run = async (devices: string): Promise<CaseOutcome[]> =>
    await outcomes(
      `testenv:
  dataset: { url: ${SUITES}/shared/digits.ts, hyperparameters: { train: 100, test: 20 } }
  network: { profile: factory LAN }
  devices: ${devices}
  metrics: [accuracy, latency_p50, virtual_time]
`,
      `algorithm:
  paradigm_type: jointinference
  modules:
    - { type: edgemodel, name: digitClassifier, url: ${SUITES}/shared/networks.ts, hyperparameters: { size: small, epochs: 1 } }
    - { type: cloudmodel, name: digitClassifier, url: ${SUITES}/shared/networks.ts, hyperparameters: { size: small, epochs: 1 } }
    - { type: hard_example_mining, name: CloudOnly }
`,
    );

  it('what goes up waits for the link of the edge, and for ever is said', async () => {
    const [always, later] = [
      await run('{ infer_ms_per_sample: 1, traces: [[[0, 1000000]]] }'),
      await run('{ infer_ms_per_sample: 1, traces: [[[500, 1000000]]] }'),
    ].map(([first]) => first?.metrics);
    expect(later?.['accuracy']).toBe(always?.['accuracy']);
    expect((later?.['virtual_time'] ?? 0) - (always?.['virtual_time'] ?? 0)).toBeCloseTo(500, 1);
    await expect(run('{ infer_ms_per_sample: 1, traces: [[[0, 0.001]]] }')).rejects.toThrow(
      /device 0 cannot be reached any more/,
    );
  });
});

describe('a strategy of the user’s own', () => {
  it('is one file in the slot', async () => {
    writeFileSync(
      join(dir, 'half.ts'),
      `export default () => ({
  name: 'half', local: {},
  rule: { kind: 'mean', weight: () => 1, scale: (u: unknown[]) => 1 / u.length },
  step: (model: Float32Array, change: Float32Array) => { for (let i = 0; i < model.length; i++) model[i]! += 0.5 * change[i]!; },
});
`,
    );
    const [outcome] = await outcomes(
      `${DIGITS}  round: 2\n  client_number: 2\n  metrics: [accuracy]\n`,
      `algorithm:
  paradigm_type: federatedlearning
  modules:
${BASE}    - { type: aggregation, name: half, url: ./half.ts }
`,
    );
    expect(outcome?.metrics['accuracy']).toBeGreaterThan(0.05);
    expect(outcome?.curve).toHaveLength(2);
  }, 60_000);
});
