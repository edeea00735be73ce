import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { EVERY_JOB, knowledgeJob, knowledgeToken } from '@shoal/api';
import { type JsonObject, type KeyPair, seededRandom } from '@shoal/core';
import { KnowledgeClient } from '@shoal/lib';
import { dense, relu, sequential } from '@shoal/training';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ClusterFixture, type Live, template } from './cluster-fixture.ts';

/** Lifelong learning jobs with the ready-made workers, on a real cluster whose parts are killed. */
let c: ClusterFixture;
beforeAll(async () => {
  c = await ClusterFixture.start(1);
  const layers = [dense(16), relu(), dense(2)];
  const model = sequential({ input: [4], layers, random: seededRandom(1) });
  writeFileSync(join(c.folder, 'untrained.onnx'), model);
});
afterAll(async () => await c.stop());

const HEAD = 'a,b,c,where,place,label\n';
const COMPONENTS = {
  taskDefinition: { method: 'TaskDefinitionByDataAttr', param: { attribute: ['place'] } },
  taskAllocation: { method: 'TaskAllocationByDataAttr', param: { attribute: ['place'] } },
};

/** Votes of places in turn: each place asks for the sign of another column. */
function lines(places: readonly number[], count: number): string {
  const random = seededRandom((places[0] ?? 0) + 1);
  return Array.from({ length: count }, (_, i) => {
    const place = places[i % places.length] ?? 0;
    const x = [random.normal(), random.normal(), random.normal()];
    return `${[...x.map((v) => v.toFixed(3)), place, `place-${place}`, (x[place % 3] ?? 0) > 0 ? 1 : 0].join(',')}\n`;
  }).join('');
}

function job(name: string, port: number, over: JsonObject = {}): JsonObject[] {
  const env = [
    { name: 'LIFELONG_COMPONENTS', value: JSON.stringify(COMPONENTS) },
    { name: 'LIFELONG_MODEL', value: join(c.folder, 'untrained.onnx') },
    { name: 'LIFELONG_ATTRIBUTES', value: 'place' },
    { name: 'INPUT_SHAPE', value: '4' },
    { name: 'EPOCHS', value: '20' },
    { name: 'LEARNING_RATE', value: '0.01' },
    { name: 'INFERENCE_PORT', value: String(port) },
  ];
  const worker = (kind: string): string[] => ['node', 'workers/src/main.ts', kind];
  return [
    {
      apiVersion: 'sedna.io/v1alpha1',
      kind: 'Dataset',
      metadata: { name: `${name}-data` },
      spec: { url: `/data/${name}.csv`, format: 'csv', nodeName: 'cloud-1' },
    },
    {
      apiVersion: 'sedna.io/v1alpha1',
      kind: 'LifelongLearningJob',
      metadata: { name },
      spec: {
        dataset: { name: `${name}-data`, trainProb: 0.75 },
        outputDir: `/output/${name}`,
        trainSpec: {
          template: template('cloud-1', worker('lifelong-train'), { env }),
          trigger: {
            checkPeriodSeconds: 1,
            condition: { operator: '>', threshold: 100, metric: 'num_of_samples' },
          },
        },
        evalSpec: { template: template('cloud-1', worker('lifelong-evaluate'), { env }) },
        deploySpec: { template: template('edge-1', worker('lifelong-infer'), { env }) },
        ...over,
      },
    },
  ];
}

async function apply(objects: readonly JsonObject[], name: string): Promise<Live> {
  writeFileSync(c.path('cloud-1', `/data/${name}.csv`), HEAD);
  await c.apply(...objects);
  return await c.until('the job', async () => await c.get('ll', name));
}

async function deployed(name: string, before?: string): Promise<Live> {
  return await c.until(
    `${name} to be deployed`,
    async () => {
      const found = await c.get('ll', name);
      const digest = found?.status?.deployedModel;
      return digest !== undefined && digest !== before ? found : undefined;
    },
    60_000,
  );
}

function knowledge(of: Live): KnowledgeClient {
  const key = readFileSync(join(c.layout.managerDir, 'knowledge-base.key'), 'utf8').trim();
  const ca = JSON.parse(
    readFileSync(join(c.layout.managerDir, 'edge-link-ca.json'), 'utf8'),
  ) as KeyPair;
  return new KnowledgeClient({
    address: c.cluster.state.knowledgeBase,
    job: knowledgeJob({ ...of.metadata, namespace: 'default' }),
    token: knowledgeToken(key, EVERY_JOB),
    authority: ca.certificate,
  });
}

async function tasksOf(of: Live): Promise<string[]> {
  const client = knowledge(of);
  try {
    return (await client.snapshot()).tasks.map((t) => `${t.name}@${t.revision}`);
  } finally {
    client.close();
  }
}

interface Answer {
  readonly label: number;
  readonly task: string;
  readonly isUnseen: boolean;
  readonly source: string;
}

async function ask(port: number, place: string, values: readonly number[]): Promise<Answer> {
  const node = await c.get('node', 'edge-1');
  const status = node?.status as unknown as { addresses?: { type: string; address: string }[] };
  const ip = status.addresses?.find((a) => a.type === 'InternalIP')?.address ?? '';
  const response = await fetch(`http://${ip}:${port}/predict`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ data: [values], attributes: [{ place }] }),
  });
  if (!response.ok) throw new Error(await response.text());
  const { result } = (await response.json()) as { result: Answer[] };
  if (!result[0]) throw new Error('no answer');
  return result[0];
}

async function back(process: string, before: number): Promise<void> {
  await c.until(`${process} to return`, async () => {
    const now = c.cluster.processes.find((p) => p.name === process)?.pid;
    return await Promise.resolve(now !== undefined && now !== before);
  });
}

test('two places are learned and served; a third is unseen, goes up once, and is learned', async () => {
  const made = await apply(job('places', 8091), 'places');
  appendFileSync(c.path('cloud-1', '/data/places.csv'), lines([0, 1], 240));
  const first = await deployed('places');
  expect(await tasksOf(made)).toEqual(['global@1', 'place-0@1', 'place-1@1']);
  const base = (first.status as unknown as { knowledgeBase: JsonObject }).knowledgeBase;
  expect(base).toMatchObject({
    AIModels: { numberOfAIModels: 3 },
    AIClasses: { numberOfAIClasses: 2 },
  });
  const right = await c.until('answers', async () => await ask(8091, 'place-1', [0, 2, 0, 1]));
  expect([right.label, right.task]).toEqual([1, 'place-1']);
  const strange = await ask(8091, 'place-2', [0, 0, 2, 2]);
  expect([strange.isUnseen, strange.source]).toEqual([true, 'fallback']);
  const client = knowledge(made);
  await c.until('the sample to go up', async () => (await client.samples()).length > 0);
  const [sample] = await client.samples();
  expect(sample?.attributes).toEqual({ place: 'place-2' });
  client.close();

  // Killed and back: the base knows what it knew, and learning goes on.
  const before = c.pidOf('knowledge-base');
  process.kill(before, 'SIGKILL');
  await back('knowledge-base', before);
  expect(await c.until('the base', async () => await tasksOf(made))).toHaveLength(3);
  appendFileSync(c.path('cloud-1', '/data/places.csv'), lines([2], 200));
  await deployed('places', first.status?.deployedModel);
  expect(await tasksOf(made)).toEqual(['global@1', 'place-0@1', 'place-1@1', 'place-2@1']);
  const learned = await c.until('the new task', async () => {
    const answer = await ask(8091, 'place-2', [0, 0, 2, 2]);
    return answer.source === 'task' ? answer : undefined;
  });
  expect(learned.label).toBe(1);
  await expectTold();
});

/** What `shoal kb` says of the job. */
async function expectTold(): Promise<void> {
  expect((await c.shoal('kb list')).output).toMatch(/default\/places\/[0-9a-f]{8}\s+\d+\s+4/);
  const shown = (await c.shoal('kb show places')).output;
  expect(shown).toMatch(/4 tasks, 1 unseen samples \(0 labelled\)/);
  expect(shown).toMatch(/place-2\s+1\s+\d+\s+\d+\.\d %\s+\S+ kB\s+place=place-2/);
  const json = JSON.parse((await c.shoal('kb show places --json')).output) as { version: number };
  const diff = await c.shoal(`kb diff places 2 ${json.version}`);
  expect(diff.output).toMatch(/place-2\s+added/);
  const out = join(c.folder, 'knowledge');
  expect((await c.shoal(`kb export places --out ${out}`)).output).toMatch(/place-2@1\.onnx/);
  expect((await c.shoal(`model inspect ${join(out, 'place-2@1.onnx')}`)).output).toMatch(/Gemm/);
  const samples = await c.shoal('kb samples places --json');
  const [sample] = JSON.parse(samples.output) as { id: string }[];
  expect((await c.shoal(`kb label places ${sample?.id} 1`)).output).toMatch(
    / is 1 \(version \d+\)/,
  );
  expect((await c.shoal('kb label places nothing 1')).output).toMatch(/has no sample "nothing"/);
  expect((await c.shoal('kb show nowhere')).output).toMatch(
    /no job "nowhere"; it has: default\/places/,
  );
}

test('knowledge base killed -9 while a stage runs: the worker tries again, nothing is lost or doubled', async () => {
  const made = await apply(job('kills', 8092), 'kills');
  appendFileSync(c.path('cloud-1', '/data/kills.csv'), lines([0], 200));
  await c.until('training', async () => (await c.condition('ll', 'kills'))?.type === 'Running');
  for (const part of ['knowledge-base', 'local-controller-cloud-1', 'global-manager']) {
    const before = c.pidOf(part);
    process.kill(before, 'SIGKILL');
    await back(part, before);
  }
  const done = await deployed('kills');
  expect(done.status?.round).toBeLessThanOrEqual(2);
  const tasks = await tasksOf(made);
  expect(tasks.map((t) => t.split('@')[0])).toEqual(['global', 'place-0']);
  await c.resources.remove('ll', 'default', 'kills');
});

test('a job made anew under an old name starts afresh; the old knowledge stays', async () => {
  const old = await c.until('the first job', async () => await c.get('ll', 'places'));
  const known = await tasksOf(old);
  await c.resources.remove('ll', 'default', 'places');
  await c.until('it to be gone', async () => (await c.get('ll', 'places')) === undefined);
  const [, fresh] = job('places', 8091);
  if (!fresh) throw new Error('no job');
  await c.apply(fresh);
  const made = await c.until('the new job', async () => await c.get('ll', 'places'));
  expect(await tasksOf(made)).toEqual([]);
  expect(await tasksOf(old)).toEqual(known);
  await c.resources.remove('ll', 'default', 'places');
});

test('an attribute that is not there, and a component that throws, fail the stage and say so', async () => {
  const broken = join(c.folder, 'broken.mjs');
  writeFileSync(broken, `export default () => ({ define() { throw new Error('my mistake'); } });`);
  const faults: Record<string, [JsonObject, RegExp]> = {
    unknown: [
      { taskDefinition: { method: 'TaskDefinitionByDataAttr', param: { attribute: ['town'] } } },
      /no attribute .{1,2}town.{1,2}; they have: place/,
    ],
    thrower: [{ taskDefinition: { method: broken } }, /my mistake/],
  };
  for (const [name, [components, reason]] of Object.entries(faults)) {
    const objects = JSON.parse(
      JSON.stringify(job(name, 8093)).replaceAll(
        JSON.stringify(JSON.stringify(COMPONENTS)).slice(1, -1),
        JSON.stringify(JSON.stringify(components)).slice(1, -1),
      ),
    ) as JsonObject[];
    await apply(objects, name);
    appendFileSync(c.path('cloud-1', `/data/${name}.csv`), lines([0], 200));
    const pod = await c.until('its worker', async () => (await c.pods(`${name}-train-`))[0]);
    const log = await c.until(
      'the reason in its log',
      async () => {
        let text = '';
        const path = `/api/v1/namespaces/default/pods/${pod.metadata.name}/log`;
        await c.client.stream(path, (chunk) => {
          text += chunk.toString();
        });
        return reason.test(text) ? text : undefined;
      },
      40_000,
    );
    expect(log).toMatch(reason);
    const told = await c.until('why', async () => (await c.get('ll', name))?.status?.message);
    expect(told).toMatch(/container main/);
    await c.resources.remove('ll', 'default', name);
  }
});

test('a dataset that is missing is named; object storage is refused', async () => {
  const [, lonely] = job('lonely', 8094);
  if (!lonely) throw new Error('no job');
  await c.apply(lonely);
  const told = await c.until('why', async () => (await c.get('ll', 'lonely'))?.status?.message);
  expect(told).toMatch(/spec\.dataset\.name.*lonely-data/);
  await c.resources.remove('ll', 'default', 'lonely');
});
