import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { knowledgeToken } from '@shoal/api';
import { seededRandom, silentLogger } from '@shoal/core';
import { generateDigits } from '@shoal/datasets';
import {
  type Change,
  type ComponentChoices,
  type CreateEstimator,
  EdgeTasks,
  KnowledgeClient,
  KnowledgeServer,
  KnowledgeStore,
  LifelongLearning,
  OnnxEstimator,
  resolveComponents,
  type TaskSamples,
} from '@shoal/lib';
import { dense, relu, sequential } from '@shoal/training';

/**
 * `npm run bench:knowledge-base`: queries of a knowledge base with 1,000 tasks over gRPC on loopback,
 * and allocation with unseen detection at the edge, per sample, for tables and for images.
 */
const TASKS = 1_000;
const QUERIES = 2_000;
const KEY = 'bench';

function quantile(sorted: readonly number[], q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}

function show(what: string, times: number[], target?: number): object {
  times.sort((a, b) => a - b);
  const figures = {
    min: quantile(times, 0),
    median: quantile(times, 0.5),
    p99: quantile(times, 0.99),
  };
  const shown = Object.entries(figures).map(([k, v]) => `${k} ${v.toFixed(3)} ms`);
  console.log(`${what.padEnd(52)} ${shown.join('  ')}${target ? `  (target ${target} ms)` : ''}`);
  return figures;
}

async function queries(): Promise<object> {
  const dir = mkdtempSync(join(tmpdir(), 'shoal-kb-bench-'));
  const store = new KnowledgeStore({ dir });
  const server = new KnowledgeServer({ store, key: KEY });
  const address = await server.start();
  const client = new KnowledgeClient({ address, job: 'j', token: knowledgeToken(KEY, 'j') });
  const random = seededRandom(1);
  const model = await client.putModel(Buffer.from('a model'));
  const changes: Change[] = [];
  for (let t = 0; t < TASKS; t++) {
    const centroid = Array.from({ length: 17 }, () => random.normal());
    const task = {
      name: `task-${t}`,
      revision: 1,
      attributes: { city: `city-${t}` },
      model,
      modelBytes: 7,
      samples: 100,
      metrics: { accuracy: 0.6 },
      classes: ['0', '1', '2'],
      knowledge: { centroid },
    };
    changes.push(
      { kind: 'task', task },
      { kind: 'verdict', task: task.name, revision: 1, model, state: 'admitted' },
    );
  }
  await client.commit(changes);
  const times: number[] = [];
  for (let q = 0; q < QUERIES; q++) {
    const point = Float32Array.from({ length: 17 }, () => random.normal());
    const startedAt = performance.now();
    await client.nearest(point, 5);
    times.push(performance.now() - startedAt);
  }
  const snapshots: number[] = [];
  for (let q = 0; q < 50; q++) {
    const startedAt = performance.now();
    await client.snapshot();
    snapshots.push(performance.now() - startedAt);
  }
  const commits: number[] = [];
  for (let q = 0; q < 300; q++) {
    const sample = {
      id: `s${q}`,
      edge: 'e',
      task: '',
      attributes: {},
      shape: [17],
      inputs: new Float32Array(17),
      recordedAtMs: q,
    };
    const startedAt = performance.now();
    await client.commit([{ kind: 'sample', sample }]);
    commits.push(performance.now() - startedAt);
  }
  const figures = {
    nearest: show(`nearest of ${TASKS} tasks, over gRPC`, times, 20),
    snapshot: show(`snapshot of ${TASKS} tasks, over gRPC`, snapshots),
    commit: show('one unseen sample, durable, over gRPC', commits),
  };
  client.close();
  server.close();
  store.close();
  rmSync(dir, { recursive: true });
  return figures;
}

/** Rows of a table, or digits, in five tasks that lie apart. */
function samplesOf(width: number, size: number, seed: number): TaskSamples {
  const random = seededRandom(seed);
  const digits = width === 784 ? generateDigits({ count: size, seed }) : undefined;
  const inputs = new Float32Array(size * width);
  const place = Array.from({ length: size }, (_, i) => `place-${i % 5}`);
  for (let i = 0; i < size; i++) {
    const order = digits ? seededRandom(i % 5).permutation(784) : undefined;
    for (let k = 0; k < width; k++)
      inputs[i * width + k] = digits
        ? (digits.inputs[i * 784 + (order?.[k] ?? 0)] ?? 0)
        : random.normal() + (k === 0 ? 4 * (i % 5) : 0);
  }
  const labels = BigInt64Array.from({ length: size }, () => BigInt(random.int(3)));
  return { inputs, labels, shape: [width], size, attributes: { place } };
}

async function placement(width: number, components: ComponentChoices): Promise<number[]> {
  const dir = mkdtempSync(join(tmpdir(), 'shoal-edge-bench-'));
  const store = new KnowledgeStore({ dir: join(dir, 'cloud') });
  const knowledge = store.of('j');
  const layers = [dense(32), relu(), dense(3)];
  const model = sequential({ input: [width], layers, random: seededRandom(1) });
  const create: CreateEstimator = () => new OnnxEstimator({ model, epochs: 1, threads: 1 });
  const environment = { OUTPUT_URL: dir, edge_output_url: join(dir, 'edge') };
  const learning = await LifelongLearning.open({ create, components, knowledge, environment });
  const { candidates } = await learning.train(samplesOf(width, 1_000, 1));
  await learning.evaluate(samplesOf(width, 200, 2), candidates);
  await learning.close();
  const edge = new EdgeTasks({
    dir: join(dir, 'edge'),
    components: await resolveComponents(components),
    create,
    knowledge,
    logger: silentLogger,
  });
  await edge.adopt();
  const held = samplesOf(width, 1_000, 3);
  const times: number[] = [];
  for (let i = 0; i < held.size; i++) {
    const inputs = held.inputs.slice(i * width, (i + 1) * width);
    const attributes = { place: held.attributes['place']?.[i] ?? '' };
    const startedAt = performance.now();
    await edge.place({ inputs, attributes });
    if (i >= 100) times.push(performance.now() - startedAt);
  }
  await edge.close();
  store.close();
  rmSync(dir, { recursive: true });
  return times;
}

const base: ComponentChoices = {
  taskDefinition: { method: 'TaskDefinitionByDataAttr', param: { attribute: ['place'] } },
  unseenSampleRecognition: { method: 'SampleRecognitionByMahalanobis' },
};
const allocations: Readonly<Record<string, ComponentChoices>> = {
  'by attribute': {
    ...base,
    taskAllocation: { method: 'TaskAllocationByDataAttr', param: { attribute: ['place'] } },
  },
  'by centroid': { ...base, taskAllocation: { method: 'TaskAllocationByCentroid' } },
  'by centroid, neighbours': {
    ...base,
    taskAllocation: { method: 'TaskAllocationByCentroid' },
    unseenSampleRecognition: { method: 'SampleRecognitionByNeighbours' },
  },
  'by 5 detectors': { ...base, taskAllocation: { method: 'TaskAllocationByDetector' } },
};

const written: Record<string, object> = { queries: await queries() };
for (const width of [25, 784])
  for (const [name, components] of Object.entries(allocations))
    written[`${width} ${name}`] = show(
      `place a sample of ${width} values, ${name}`,
      await placement(width, components),
      0.2,
    );
console.log(JSON.stringify(written));
