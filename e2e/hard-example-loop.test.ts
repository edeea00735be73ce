import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type JsonObject, type Random, seededRandom } from '@shoal/core';
import { imageData, OnnxEstimator, RehearsalBuffer, type Samples } from '@shoal/lib';
import { dense, flatten, relu, sequential } from '@shoal/training';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ClusterFixture, type Live, template } from './cluster-fixture.ts';

/**
 * The closed loop with the ready-made workers, on a real cluster whose parts are killed: pictures of
 * 4×4 pixels whose brightest quarter is the class; after the drift they are dim.
 */
let c: ClusterFixture;
const SHAPE = [1, 4, 4];

/** Pictures: a bright day, or a dim one. */
function pictures(count: number, seed: number, dim: boolean): Samples {
  const random = seededRandom(seed);
  const inputs = new Float32Array(count * 16);
  const labels = new BigInt64Array(count);
  for (let i = 0; i < count; i++) {
    const quarter = random.int(4);
    labels[i] = BigInt(quarter);
    inputs.set(picture(quarter, random, dim), i * 16);
  }
  return { inputs, labels, shape: SHAPE, size: count };
}

function picture(quarter: number, random: Random, dim: boolean): Float32Array {
  return Float32Array.from({ length: 16 }, (_, p) => {
    const [x, y] = [p % 4, Math.floor(p / 4)];
    const isBright = Math.floor(y / 2) * 2 + Math.floor(x / 2) === quarter;
    const base = dim ? 0.5 + 0.1 * ((p * 7) % 3) : 0.1;
    const light = isBright ? (dim ? 0.15 : 0.7) : 0;
    const value = base + light + 0.06 * random.normal();
    return Math.round(Math.min(1, Math.max(0, value)) * 255) / 255;
  });
}

async function trained(samples: Samples, epochs: number): Promise<OnnxEstimator> {
  const layers = [flatten(), dense(16), relu(), dense(4)];
  const model = sequential({ input: SHAPE, layers, random: seededRandom(1) });
  const estimator = new OnnxEstimator({ model, epochs, threads: 1, seed: 3 });
  await estimator.train(samples);
  return estimator;
}

function both(count: number, seed: number): Samples {
  const [day, dusk] = [pictures(count, seed, false), pictures(count, seed + 1, true)];
  const inputs = new Float32Array(day.inputs.length * 2);
  inputs.set(day.inputs);
  inputs.set(dusk.inputs, day.inputs.length);
  const labels = BigInt64Array.from([...day.labels, ...dusk.labels]);
  return { inputs, labels, shape: SHAPE, size: day.size + dusk.size };
}

beforeAll(async () => {
  c = await ClusterFixture.start(1);
  const bright = pictures(600, 1, false);
  const small = await trained(bright, 40);
  await small.save(c.path('cloud-1', '/models/initial.onnx'));
  const buffer = RehearsalBuffer.open(c.folder, { capacity: 100 });
  buffer.offer(bright);
  buffer.write(join(c.path('cloud-1', '/models/x'), '..'));
  const big = await trained(both(1_500, 5), 30);
  await big.save(c.path('cloud-1', '/models/big.onnx'));
  await small.close();
  await big.close();
});
afterAll(async () => await c.stop());

const env = [
  { name: 'INPUT_SHAPE', value: SHAPE.join(',') },
  { name: 'EPOCHS', value: '20' },
  { name: 'LEARNING_RATE', value: '0.005' },
  { name: 'LC_PERIOD', value: '1' },
  { name: 'LABEL_POLL_MS', value: '100' },
];
const worker = (kind: string): string[] => ['node', 'workers/src/main.ts', kind];

interface Options {
  readonly port: number;
  readonly trainOver?: number;
  readonly trainMetric?: string;
  readonly labels?: boolean;
  /** Nothing is done against forgetting. */
  readonly forgets?: boolean;
  readonly spec?: JsonObject;
  readonly evalSpec?: JsonObject;
  readonly deploySpec?: JsonObject;
}

function object(kind: string, name: string, spec: JsonObject): JsonObject {
  return { apiVersion: 'sedna.io/v1alpha1', kind, metadata: { name }, spec };
}

function job(name: string, options: Options): JsonObject[] {
  const trainEnv = [...env, { name: 'REHEARSAL_SAMPLES', value: options.forgets ? '0' : '100' }];
  const { port, trainOver = 60, trainMetric = 'num_of_samples' } = options;
  const inference = [...env, { name: 'INFERENCE_PORT', value: String(port) }];
  const onnx = (model: string, url: string): JsonObject =>
    object('Model', model, { url, format: 'onnx' });
  return [
    object('Dataset', name, { url: `/data/${name}.jsonl`, format: 'jsonl', nodeName: 'cloud-1' }),
    onnx('initial', '/models/initial.onnx'),
    onnx('big', '/models/big.onnx'),
    onnx(`${name}-served`, `/models/${name}.onnx`),
    object('IncrementalLearningJob', name, {
      dataset: { name, trainProb: 0.8 },
      initialModel: { name: 'initial' },
      outputDir: `/output/${name}`,
      hardExamples: {
        ...(options.labels
          ? {
              labels: {
                model: {
                  name: 'big',
                  minConfidence: 0.8,
                  template: template('cloud-1', worker('label'), { env }),
                },
              },
            }
          : {}),
        ...options.spec,
      },
      trainSpec: {
        template: template('cloud-1', worker('train'), { env: trainEnv }),
        trigger: {
          checkPeriodSeconds: 1,
          condition: { operator: '>=', threshold: trainOver, metric: trainMetric },
        },
      },
      evalSpec: { template: template('cloud-1', worker('evaluate'), { env }), ...options.evalSpec },
      deploySpec: {
        model: { name: `${name}-served`, hotUpdateEnabled: true, pollPeriodSeconds: 1 },
        trigger: { condition: { operator: '>', threshold: 0.01, metric: 'accuracy_delta' } },
        hardExampleMining: {
          name: 'CrossEntropy',
          parameters: [{ key: 'threshold_cross_entropy', value: '0.6' }],
        },
        template: template('edge-1', worker('infer'), { env: inference }),
        ...options.deploySpec,
      },
    }),
  ];
}

/** Starts a job; what it answers to its first picture counts like any other. */
async function start(name: string, options: Options): Promise<Answer> {
  writeFileSync(c.path('cloud-1', `/data/${name}.jsonl`), '');
  const initial = readFileSync(c.path('cloud-1', '/models/initial.onnx'));
  writeFileSync(c.path('edge-1', `/models/${name}.onnx`), initial);
  await c.apply(...job(name, options));
  const [first] = await c.until(
    'the service',
    async () => await ask(options.port, pictures(1, 1, false)),
  );
  if (!first) throw new Error('no answer');
  return first;
}

interface Answer {
  readonly label: number;
  readonly hard: boolean;
}

async function ask(port: number, samples: Samples): Promise<Answer[]> {
  const node = await c.get('node', 'edge-1');
  const status = node?.status as unknown as { addresses?: { type: string; address: string }[] };
  const ip = status.addresses?.find((a) => a.type === 'InternalIP')?.address ?? '';
  const data = Array.from({ length: samples.size }, (_, i) => [
    ...samples.inputs.subarray(i * 16, (i + 1) * 16),
  ]);
  const response = await fetch(`http://${ip}:${port}/predict`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ data }),
  });
  if (!response.ok) throw new Error(await response.text());
  return ((await response.json()) as { result: Answer[] }).result;
}

async function accuracy(port: number, samples: Samples): Promise<number> {
  const answers = await ask(port, samples);
  return answers.filter((a, i) => BigInt(a.label) === samples.labels[i]).length / samples.size;
}

interface LoopStatus {
  readonly hardExamples?: Record<string, number>;
  readonly inference?: { readonly driftAlarms: number; readonly hardRatio: number };
  readonly models?: readonly { readonly digest: string; readonly round: number }[];
  readonly deployedModel?: string;
  readonly round?: number;
}

async function statusOf(name: string): Promise<LoopStatus> {
  return ((await c.get('il', name))?.status ?? {}) as LoopStatus;
}

async function untilCounts(name: string, wanted: Record<string, number>): Promise<LoopStatus> {
  return await c.until(
    `${name}: ${JSON.stringify(wanted)}`,
    async () => {
      const status = await statusOf(name);
      const fits = Object.entries(wanted).every(([k, n]) => status.hardExamples?.[k] === n);
      return fits ? status : undefined;
    },
    60_000,
  );
}

function datasetLines(name: string): string[] {
  const text = readFileSync(c.path('cloud-1', `/data/${name}.jsonl`), 'utf8');
  return text.split('\n').filter((l) => l !== '');
}

async function killed(process_: string): Promise<void> {
  const before = c.pidOf(process_);
  process.kill(before, 'SIGKILL');
  await c.until(`${process_} to return`, async () => {
    const now = c.cluster.processes.find((p) => p.name === process_)?.pid;
    return await Promise.resolve(now !== undefined && now !== before);
  });
}

test('the loop closes by itself while parts are killed: every hard example is learned once', async () => {
  await start('loop', { port: 8101, labels: true });
  const dusk = pictures(300, 21, true);
  const [before, dayBefore] = [
    await accuracy(8101, pictures(300, 22, true)),
    await accuracy(8101, pictures(300, 23, false)),
  ];
  await killed('global-manager');
  const answers = await ask(8101, dusk);
  const hard = answers.filter((a) => a.hard).length;
  expect(hard).toBeGreaterThan(100);
  await killed('local-controller-cloud-1');
  await killed('local-controller-edge-1');
  const status = await c.until(
    'a better model to be served',
    async () => {
      const now = await statusOf('loop');
      return now.models && now.models.length >= 2 ? now : undefined;
    },
    90_000,
  );
  expect(status.models?.[0]?.round).toBe(0);
  expect(status.models?.at(-1)?.digest).toBe(status.deployedModel);
  const [after, dayAfter] = [
    await accuracy(8101, pictures(300, 22, true)),
    await accuracy(8101, pictures(300, 23, false)),
  ];
  expect(after - before).toBeGreaterThan(0.1);
  expect(dayBefore - dayAfter).toBeLessThan(0.02);
  // No sample twice, none invented: every line is a picture that was asked about.
  const lines = datasetLines('loop');
  const images = lines.map((l) => (JSON.parse(l) as { image: string }).image);
  expect(new Set(images).size).toBe(images.length);
  const asked = new Set<string>();
  for (const seed of [1, 21, 22, 23])
    for (const set of [pictures(300, seed, true), pictures(300, seed, false)])
      for (let i = 0; i < set.size; i++)
        asked.add(imageData(set.inputs.subarray(i * 16, (i + 1) * 16)).image);
  expect(images.every((image) => asked.has(image))).toBe(true);
});

test('the figures of the loop are in /metrics of the manager', async () => {
  const text = await (await fetch(`${c.cluster.state.managerUrl}/metrics`)).text();
  const figure = (name: string): number =>
    Number(
      new RegExp(
        `shoal_job_figure\\{kind="IncrementalLearningJob",namespace="default",name="loop",figure="${name}"\\} (\\S+)`,
      ).exec(text)?.[1],
    );
  expect(figure('inference_inferences')).toBeGreaterThan(600);
  expect(figure('inference_hardRatio')).toBeGreaterThan(0);
  expect(figure('hardExamples_delivered')).toBeGreaterThan(50);
});

test('shoal model: what was served is listed and shown; a rollback serves it again until it is taken back', async () => {
  const { models = [], deployedModel = '' } = await statusOf('loop');
  const first = models[0]?.digest ?? '';
  const listed = await c.shoal('model list loop');
  expect(listed.output).toMatch(/loop\s+0\s+[0-9a-f]{12}/);
  expect(listed.output).toMatch(new RegExp(`${deployedModel.slice(7, 19)}.*serving`));
  expect((await c.shoal('model show loop')).output).toMatch(/accuracy\s+[01]/);
  const back = await c.shoal('model rollback loop --to 0');
  expect(back.output).toMatch(/serves the model of round 0/);
  expect((await statusOf('loop')).deployedModel).toBe(first);
  const initial = readFileSync(c.path('cloud-1', '/models/initial.onnx'));
  expect(readFileSync(c.path('edge-1', '/models/loop.onnx')).equals(initial)).toBe(true);
  const estimator = new OnnxEstimator({ model: initial, threads: 1 });
  const probe = pictures(50, 31, true);
  const { probabilities } = await estimator.predict(probe.inputs, probe.size);
  await estimator.close();
  const labels = Array.from({ length: 50 }, (_, i) => {
    const row = [...probabilities.subarray(i * 4, i * 4 + 4)];
    return row.indexOf(Math.max(...row));
  });
  await c.until('its answers', async () => {
    const answers = await ask(8101, probe);
    return answers.every((a, i) => a.label === labels[i]);
  });
  expect((await c.shoal('model list loop')).output).toMatch(/serving, pinned/);
  expect((await c.shoal('model rollback loop --off')).output).toMatch(/deployed again/);
  expect((await c.shoal('model rollback loop --to 99')).output).toMatch(
    /has served no model "99"; it has served: round/,
  );
});

async function pin(digest: string | null): Promise<void> {
  const path = '/apis/sedna.io/v1alpha1/namespaces/default/incrementallearningjobs/loop';
  const body = { spec: { deploySpec: { model: { pin: digest } } } };
  await c.client.request('PATCH', path, body, { contentType: 'application/merge-patch+json' });
}

test('a model with other classes, and one the cloud does not have, are refused by name; the served one goes on', async () => {
  const five = sequential({
    input: SHAPE,
    layers: [flatten(), dense(5)],
    random: seededRandom(1),
  });
  writeFileSync(join(c.folder, 'five.onnx'), five);
  const pushed = await c.shoal(`model push ${join(c.folder, 'five.onnx')} --json`);
  const { url } = JSON.parse(pushed.output) as { url: string };
  const probe = pictures(20, 71, false);
  const before = await ask(8101, probe);
  const { deployedModel } = await statusOf('loop');
  const reason = async (wanted: RegExp): Promise<string> =>
    await c.until(`the status to say ${wanted}`, async () => {
      const message = (await c.get('il', 'loop'))?.status?.message ?? '';
      return wanted.test(message) ? message : undefined;
    });
  await pin(url.slice('blob:'.length));
  await reason(/was refused: the model has 5 classes, the one it would replace 4/);
  expect(await ask(8101, probe)).toEqual(before);
  await pin(`sha256:${'0'.repeat(64)}`);
  await reason(/node edge-1: .*sha256:0000/);
  await pin(null);
  await c.until(
    'the status to be quiet',
    async () => (await c.get('il', 'loop'))?.status?.message === undefined,
  );
  expect(await ask(8101, probe)).toEqual(before);
  expect((await statusOf('loop')).deployedModel).toBe(deployedModel);
  await c.resources.remove('il', 'default', 'loop');
});

test('shoal label: list, show, export, import, reject; a file with unknown ids changes nothing', async () => {
  const probe = await start('people', { port: 8102, trainOver: 10_000 });
  const answers = [probe, ...(await ask(8102, pictures(60, 41, true)))];
  const hard = answers.filter((a) => a.hard).length;
  await untilCounts('people', { waiting: hard, spooled: 0 });
  expect((await c.shoal('label list')).output).toMatch(
    new RegExp(`default/people/[0-9a-f]{8}\\s+${hard}`),
  );
  const listed = await c.shoal('label list people --json');
  const [first, second] = JSON.parse(listed.output) as { id: string }[];
  const shown = await c.shoal(`label show people ${first?.id.slice(7, 15)}`);
  expect(shown.output).toMatch(/served model: \d \(score 0\.\d+\)/);
  const png = join(c.folder, 'sample.png');
  await c.shoal(`label show people ${first?.id} --out ${png}`);
  expect(readFileSync(png).subarray(1, 4).toString()).toBe('PNG');
  const file = join(c.folder, 'todo.csv');
  expect((await c.shoal(`label export people --out ${file}`)).output).toMatch(`${hard} samples`);
  const [head = '', ...rows] = readFileSync(file, 'utf8').trim().split('\n');
  const wrong = `${head}\n${rows[0]}3\nsha256:${'0'.repeat(64)},,,,1\n`;
  writeFileSync(file, wrong);
  const refused = await c.shoal(`label import people ${file}`);
  expect([refused.code, refused.output]).toEqual([
    1,
    expect.stringMatching(/1 of 2 samples are unknown: sha256:0000/),
  ]);
  await untilCounts('people', { waiting: hard, labelled: 0, delivered: 0 });
  await c.shoal(`label reject people ${second?.id} too dark`);
  writeFileSync(
    file,
    `${head}\n${rows
      .map((r) => `${r}3`)
      .filter((r) => !r.startsWith(second?.id ?? ''))
      .join('\n')}\n`,
  );
  expect((await c.shoal(`label import people ${file}`)).output).toMatch(
    `${hard - 1} samples labelled`,
  );
  await untilCounts('people', { waiting: 0, delivered: hard - 1, rejected: 1 });
  expect(datasetLines('people')).toHaveLength(hard - 1);
  expect(JSON.parse(datasetLines('people')[0] ?? '')).toMatchObject({ label: 3 });
  const late = await c.shoal(`label set people ${first?.id} 1`);
  expect(late.output).toMatch(/no sample of default\/people|in the dataset already/);
  await c.resources.remove('il', 'default', 'people');
});

test('a full cloud makes edges wait, and nothing is lost; a full edge drops the oldest and says so', async () => {
  await start('full', {
    port: 8103,
    trainOver: 10_000,
    spec: { maxSamples: 20, edgeSpool: { maxSamples: 30 } },
  });
  await ask(8103, pictures(80, 50, true));
  await untilCounts('full', { waiting: 20 });
  await ask(8103, pictures(200, 51, true));
  const status = await untilCounts('full', { waiting: 20, spooled: 30 });
  const { collected = 0, dropped = 0 } = status.hardExamples ?? {};
  expect(collected).toBe(20 + 30 + dropped);
  expect(dropped).toBeGreaterThan(0);
  await c.shoal(`label export full --out ${join(c.folder, 'full.jsonl')}`);
  const rows = readFileSync(join(c.folder, 'full.jsonl'), 'utf8').trim().split('\n');
  const filled = rows.map((r) => JSON.stringify({ ...(JSON.parse(r) as JsonObject), label: 2 }));
  writeFileSync(join(c.folder, 'full.jsonl'), filled.join('\n'));
  await c.shoal(`label import full ${join(c.folder, 'full.jsonl')}`);
  await untilCounts('full', { delivered: 20, waiting: 20, spooled: 10 });
  await c.resources.remove('il', 'default', 'full');
});

test('drift starts a training; a guard that is hurt keeps the deployed model', async () => {
  await start('drift', {
    port: 8104,
    trainOver: 1,
    trainMetric: 'drift',
    forgets: true,
    evalSpec: {
      guards: [{ name: 'quarter-2', label: 2, metric: 'accuracy', maxDrop: 0 }],
    },
    deploySpec: {
      trigger: { condition: { operator: '>', threshold: -1, metric: 'accuracy_delta' } },
      driftDetection: { name: 'ADWIN', parameters: [{ key: 'delta', value: '0.002' }] },
    },
  });
  await ask(8104, pictures(300, 61, false));
  const lines = (samples: Samples, label?: number): string =>
    Array.from({ length: samples.size }, (_, i) =>
      JSON.stringify({
        ...imageData(samples.inputs.subarray(i * 16, (i + 1) * 16)),
        label: label ?? Number(samples.labels[i]),
      }),
    ).join('\n');
  // Somebody labels everything as quarter 1: what is learned from it is worse on quarter 2.
  const spoiled = `${lines(pictures(150, 62, false), 1)}\n${lines(pictures(50, 63, false))}\n`;
  writeFileSync(c.path('cloud-1', '/data/drift.jsonl'), spoiled);
  await new Promise((resolve) => setTimeout(resolve, 2_500));
  expect((await statusOf('drift')).round).toBe(1);
  expect((await c.get('il', 'drift'))?.status?.conditions?.at(-1)?.type).toBe('Waiting');
  await ask(8104, pictures(300, 64, true));
  const kept = await c.until(
    'the guard',
    async () => {
      const job_ = await c.get('il', 'drift');
      return job_?.status?.conditions?.find((x) => x.message?.includes('guard')) ? job_ : undefined;
    },
    60_000,
  );
  const log = (kept as Live).status?.conditions?.map((x) => x.message ?? '') ?? [];
  expect(log.some((m) => /drift = 1, asked for >= 1/.test(m))).toBe(true);
  expect(log.some((m) => /guard "quarter-2": accuracy@quarter-2 falls by [01]/.test(m))).toBe(true);
  const { inference, deployedModel } = await statusOf('drift');
  expect(inference?.driftAlarms).toBeGreaterThanOrEqual(1);
  expect(deployedModel).toBeUndefined();
  expect(existsSync(c.path('cloud-1', '/output/drift/train/1/model.onnx'))).toBe(true);
  await c.resources.remove('il', 'default', 'drift');
});
