import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { type JsonObject, seededRandom } from '@shoal/core';
import { dense, flatten, sequential } from '@shoal/training';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { alive, ClusterFixture, template } from './cluster-fixture.ts';

/** An edge that is restarted while the cloud cannot be reached: it serves, collects, and tells it all later, once. */
let c: ClusterFixture;
const SHAPE = [1, 4, 4];
const PORT = 8141;
const stopped: number[] = [];

function object(kind: string, name: string, spec: JsonObject): JsonObject {
  return { apiVersion: 'sedna.io/v1alpha1', kind, metadata: { name }, spec };
}

beforeAll(async () => {
  c = await ClusterFixture.start(1);
});
afterAll(async () => {
  for (const pid of stopped) if (alive(pid)) process.kill(pid, 'SIGCONT');
  await c.stop();
});

const env = [
  { name: 'INPUT_SHAPE', value: SHAPE.join(',') },
  { name: 'LC_PERIOD', value: '1' },
  { name: 'INFERENCE_PORT', value: String(PORT) },
];
const worker = (kind: string): string[] => ['node', 'workers/src/main.ts', kind];
const random = seededRandom(3);

async function addressOf(node: string): Promise<string> {
  const { addresses } = ((await c.get('node', node))?.status ?? {}) as {
    addresses?: { type: string; address: string }[];
  };
  return addresses?.find((a) => a.type === 'InternalIP')?.address ?? '';
}

let ip = '';

/** Answers of the worker at the edge; every picture is a hard one. */
async function predict(count: number): Promise<number> {
  const data = Array.from({ length: count }, () =>
    Array.from({ length: 16 }, () => Math.round(random.next() * 255) / 255),
  );
  const response = await fetch(`http://${ip}:${PORT}/predict`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ data }),
  });
  if (!response.ok) throw new Error(await response.text());
  return ((await response.json()) as { result: unknown[] }).result.length;
}

async function post(n: number): Promise<number> {
  const response = await fetch(`http://${ip}:9100/shoal/datasets/default/door/samples`, {
    method: 'POST',
    headers: { 'Idempotency-Key': `door-${n}` },
    body: JSON.stringify({ n, pad: 'x'.repeat(100) }),
  });
  return response.status;
}

interface Status {
  readonly hardExamples?: Record<string, number>;
  readonly inference?: { readonly inferences: number };
}

async function status(): Promise<Status> {
  return ((await c.get('il', 'eye'))?.status ?? {}) as Status;
}

/** Processes of the node whose command line names its folder: its agent, its controller, its workers. */
function processesOf(text: RegExp): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .flatMap((pid) => {
      try {
        const environment = readFileSync(`/proc/${pid}/environ`, 'utf8');
        return environment.includes(c.folder) && text.test(environment) ? [Number(pid)] : [];
      } catch {
        return []; // gone
      }
    });
}

function halt(name: string): void {
  const pid = c.pidOf(name);
  process.kill(pid, 'SIGSTOP');
  stopped.push(pid);
}

test('restarted without the cloud, an edge answers, collects within its quota, and tells everything once', async () => {
  const layers = [flatten(), dense(4)];
  const model = sequential({ input: SHAPE, layers, random: seededRandom(1) });
  writeFileSync(c.path('cloud-1', '/models/eye.onnx'), model);
  writeFileSync(c.path('edge-1', '/models/eye.onnx'), model);
  writeFileSync(c.path('cloud-1', '/data/eye.jsonl'), '');
  await c.apply(
    object('Dataset', 'eye', { url: '/data/eye.jsonl', format: 'jsonl', nodeName: 'cloud-1' }),
    object('Dataset', 'door', {
      url: '/data/door.jsonl',
      format: 'jsonl',
      nodeName: 'edge-1',
      source: { http: {}, maxBytes: 2_048 },
    }),
    object('Model', 'eye', { url: '/models/eye.onnx', format: 'onnx' }),
    object('IncrementalLearningJob', 'eye', {
      dataset: { name: 'eye', trainProb: 0.8 },
      initialModel: { name: 'eye' },
      outputDir: '/output/eye',
      hardExamples: { edgeSpool: { maxSamples: 40 } },
      trainSpec: {
        template: template('cloud-1', worker('train'), { env }),
        trigger: { condition: { operator: '>=', threshold: 1e9, metric: 'num_of_samples' } },
      },
      evalSpec: { template: template('cloud-1', worker('evaluate'), { env }) },
      deploySpec: {
        model: { name: 'eye', hotUpdateEnabled: true, pollPeriodSeconds: 1 },
        trigger: { condition: { operator: '>', threshold: 0, metric: 'accuracy_delta' } },
        hardExampleMining: { name: 'CloudOnly' },
        template: template('edge-1', worker('infer'), { env }),
      },
    }),
  );
  ip = await addressOf('edge-1');
  await c.until('an answer', async () => (await predict(1)) === 1, 30_000);
  await c.until('the door', async () => (await post(0)) === 200);
  await c.until(
    'the first hard example',
    async () => (await status()).hardExamples?.['waiting'] === 1,
  );

  // The network closes: nothing of the cloud answers any more.
  for (const name of ['global-manager', 'api-server']) halt(name);
  // The machine restarts: its controller, its agent and its workers are gone at once.
  const workers = processesOf(/INFERENCE_PORT=8141/);
  expect(workers.length).toBeGreaterThan(0);
  for (const pid of [c.pidOf('local-controller-edge-1'), c.pidOf('node-agent-edge-1'), ...workers])
    if (alive(pid)) process.kill(pid, 'SIGKILL');
  await c.until(
    'it to answer again, without the cloud',
    async () => (await predict(5)) === 5,
    60_000,
  );
  expect(processesOf(/INFERENCE_PORT=8141/).some((pid) => workers.includes(pid))).toBe(false);

  // Samples collect within their quotas: 40 hard examples, two KiB of the door's.
  await c.until('the controller to listen', async () => (await post(1)) === 200, 30_000);
  for (let i = 0; i < 10; i++) await predict(6);
  const codes: number[] = [];
  for (let n = 2; n < 30; n++) codes.push(await post(n));
  const taken = codes.filter((code) => code === 200).length;
  expect(codes.slice(taken).every((code) => code === 507)).toBe(true);
  expect(taken).toBeGreaterThan(5);
  expect(taken).toBeLessThan(25);
  await new Promise((resolve) => setTimeout(resolve, 4_500)); // figures are noted every two seconds here

  // The network returns.
  for (const pid of stopped) process.kill(pid, 'SIGCONT');
  const told = await c.until(
    'everything to arrive',
    async () => {
      const { hardExamples = {}, inference } = await status();
      const isAll = (inference?.inferences ?? 0) >= 65 && hardExamples['spooled'] === 0;
      return isAll ? hardExamples : undefined;
    },
    90_000,
  );
  // 66 pictures were hard; one was sent before, 40 were kept, the oldest went and were counted.
  expect(told).toMatchObject({ collected: 66, dropped: 25, waiting: 41 });
  await c.until('the door to be counted', async () => {
    const live = await c.get('dataset', 'door');
    return live?.status?.numberOfSamples === taken + 2;
  });
  const lines = readFileSync(c.path('edge-1', '/data/door.jsonl'), 'utf8').trim().split('\n');
  expect(lines.map((l) => (JSON.parse(l) as { n: number }).n)).toEqual(
    Array.from({ length: taken + 2 }, (_, n) => n),
  );
  // What was counted meanwhile is there as well, in its order, nothing twice.
  const shown = await c.shoal('node figures edge-1 --json');
  const history = JSON.parse(shown.output) as {
    at: string;
    figures: Record<string, Record<string, number>>;
  }[];
  const spooled = history
    .map((h) => h.figures['IncrementalLearningJob/default/eye/Inference']?.['spooled'])
    .filter((n) => n !== undefined);
  expect(Math.max(...spooled)).toBe(40);
  const times = history.map((h) => h.at);
  expect(times).toEqual(times.toSorted());
  expect(new Set(history.map((h) => JSON.stringify(h))).size).toBe(history.length);
  expect(existsSync(c.path('edge-1', '/data/door.jsonl'))).toBe(true);
});
