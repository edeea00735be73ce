import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ShoalError, seededRandom } from '@shoal/core';
import { dense, relu, sequential } from '@shoal/training';
import { afterEach, expect, test } from 'vitest';
import { OnnxEstimator } from '../estimator/onnx.ts';
import type { KnowledgeBase } from './knowledge-base/knowledge-base.ts';
import { KnowledgeStore } from './knowledge-base/store.ts';
import { LifelongLearning, type LifelongOptions } from './lifelong-learning.ts';
import type { ComponentChoices } from './task/components.ts';
import { concatenateTasks, type TaskSamples } from './task/task-samples.ts';
import type { CreateEstimator } from './task-models.ts';
import { UnseenSpool } from './unseen-spool.ts';

const WIDTH = 5;
const cleanups: (() => void | Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

function folder(): string {
  const dir = mkdtempSync(join(tmpdir(), 'shoal-ll-'));
  cleanups.push(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** Around a place of its own, a task asks for the sign of a feature of its own. */
function taskOf(task: number, size: number, seed: number): TaskSamples {
  const random = seededRandom(seed * 31 + task);
  const inputs = new Float32Array(size * WIDTH);
  const labels = new BigInt64Array(size);
  for (let i = 0; i < size; i++) {
    const x = Array.from({ length: WIDTH }, () => random.normal() * 0.4);
    labels[i] = (x[task % 2] ?? 0) * (task < 2 ? 1 : -1) > 0 ? 1n : 0n;
    x[4] = (x[4] ?? 0) + task * 1.5;
    inputs.set(x, i * WIDTH);
  }
  const attributes = { place: Array.from({ length: size }, () => `place-${task}`) };
  return { inputs, labels, shape: [WIDTH], size, attributes };
}

function several(tasks: readonly number[], size: number, seed: number): TaskSamples {
  return concatenateTasks(tasks.map((t) => taskOf(t, size, seed)));
}

const create: CreateEstimator = ({ trainable }) =>
  new OnnxEstimator({
    model: sequential({
      input: [WIDTH],
      layers: [dense(16), relu(), dense(2)],
      random: seededRandom(1),
    }),
    epochs: 15,
    optimizer: { name: 'adam', learningRate: 0.01 },
    threads: 1,
    ...(trainable ? { trainable } : {}),
  });

const BY_PLACE: ComponentChoices = {
  taskDefinition: { method: 'TaskDefinitionByDataAttr', param: { attribute: 'place' } },
  taskAllocation: { method: 'TaskAllocationByDataAttr', param: '{"attribute": ["place"]}' },
};
const BY_FEATURES: ComponentChoices = {
  taskDefinition: { method: 'TaskDefinitionByDataAttr', param: { attribute: ['place'] } },
  taskAllocation: { method: 'TaskAllocationByCentroid' },
};

interface Bench {
  readonly store: KnowledgeStore;
  readonly base: KnowledgeBase;
  readonly open: (more?: Partial<LifelongOptions>) => Promise<LifelongLearning>;
}

function bench(components: ComponentChoices): Bench {
  const store = new KnowledgeStore({ dir: folder() });
  cleanups.push(() => store.close());
  const base = store.of('default/test');
  const output = folder();
  const open = async (more: Partial<LifelongOptions> = {}): Promise<LifelongLearning> => {
    const edge = { edge_output_url: folder(), OUTPUT_URL: output, ...more.environment };
    const learning = await LifelongLearning.open({
      create,
      components,
      knowledge: base,
      ...more,
      environment: edge,
    });
    cleanups.push(async () => await learning.close());
    return learning;
  };
  return { store, base, open };
}

async function accuracyOf(learning: LifelongLearning, samples: TaskSamples): Promise<number> {
  let hits = 0;
  for (let i = 0; i < samples.size; i++) {
    const { label } = await learning.inference(sampleOf(samples, i));
    if (BigInt(label) === samples.labels[i]) hits++;
  }
  return hits / samples.size;
}

function sampleOf(
  samples: TaskSamples,
  i: number,
): { inputs: Float32Array; attributes: Record<string, string> } {
  return {
    inputs: samples.inputs.slice(i * WIDTH, (i + 1) * WIDTH),
    attributes: { place: samples.attributes['place']?.[i] ?? '' },
  };
}

test('tasks are learned, admitted and served; a task that arrives later is unseen until then', async () => {
  const { base, open } = bench(BY_FEATURES);
  const learning = await open();
  const { candidates } = await learning.train(several([0, 1], 300, 1));
  expect(candidates.map((c) => c.name)).toEqual(['global', 'place-0', 'place-1']);
  expect((await base.snapshot()).tasks).toEqual([]);
  const { verdicts } = await learning.evaluate(several([0, 1], 100, 2), candidates);
  expect(verdicts.map((v) => [v.task, v.admitted])).toEqual([
    ['global', true],
    ['place-0', true],
    ['place-1', true],
  ]);
  await learning.edge.adopt();
  expect(await accuracyOf(learning, several([0, 1], 60, 3))).toBeGreaterThan(0.88);
  const before = learning.metrics['unseen'] ?? 0;
  const stranger = taskOf(3, 80, 4);
  await accuracyOf(learning, stranger);
  const unseen = (learning.metrics['unseen'] ?? 0) - before;
  expect(unseen).toBeGreaterThan(70);
  expect(learning.metrics['unseenTask']).toBe(1);

  // The samples go up once, are labelled, and become a task of their own.
  expect(await learning.upload()).toBe(learning.metrics['unseen']);
  expect(await learning.upload()).toBe(0);
  const again = await learning.train(taskOf(3, 300, 5));
  expect(again.candidates.map((c) => c.name)).toEqual(['place-3']);
  await learning.evaluate(taskOf(3, 100, 6), again.candidates);
  await learning.edge.adopt();
  expect(learning.edge.tasks).toEqual(['place-0', 'place-1', 'place-3']);
  expect(await accuracyOf(learning, taskOf(3, 60, 7))).toBeGreaterThan(0.7);
  expect(await accuracyOf(learning, several([0, 1], 60, 3))).toBeGreaterThan(0.88);
});

test('labels for unseen samples make them part of the next training', async () => {
  const { base, open } = bench(BY_PLACE);
  const learning = await open();
  const { candidates } = await learning.train(several([0, 1], 200, 1));
  await learning.evaluate(several([0, 1], 50, 2), candidates);
  await learning.edge.adopt();
  const met = taskOf(2, 60, 3);
  for (let i = 0; i < met.size; i++) {
    const { isUnseen, source } = await learning.inference(sampleOf(met, i));
    expect([isUnseen, source]).toEqual([true, 'fallback']);
  }
  await learning.upload();
  const pending = await base.samples({ labelled: false });
  expect(pending).toHaveLength(60);
  await base.commit(
    pending.map((s, i) => ({
      kind: 'label' as const,
      sample: s.id,
      label: Number(met.labels[i] ?? 0n),
      by: 'a person',
      atMs: 1,
    })),
  );
  const next = await learning.train(taskOf(0, 100, 8));
  expect(next.candidates.map((c) => `${c.name}@${c.revision}`)).toEqual(['place-0@2', 'place-2@1']);
});

test('the edge answers without network, from what it has, the global model last', async () => {
  const { base, open } = bench(BY_PLACE);
  const teacher = await open();
  const { candidates } = await teacher.train(several([0, 1], 200, 1));
  await teacher.evaluate(several([0, 1], 50, 2), candidates);
  let away = false;
  const through = async <T>(answer: Promise<T>): Promise<T> => {
    if (away) throw new ShoalError('unavailable', 'the cable was cut');
    return await answer;
  };
  const flaky: KnowledgeBase = {
    ...base,
    snapshot: async (v) => await through(base.snapshot(v)),
    getModel: async (d) => await through(base.getModel(d)),
    commit: async (c) => await through(base.commit(c)),
  };
  const dir = folder();
  // A detector that never cries wolf: what answers is to be seen, not what is strange.
  const environment = { edge_output_url: dir, UNSEEN_ALPHA: '0.001' };
  const edge = await open({ knowledge: flaky, environment });
  await edge.edge.adopt();
  await edge.inference(sampleOf(taskOf(0, 1, 5), 0)); // fetches place-0 and only that
  expect(readdirSync(join(dir, 'models'))).toHaveLength(4); // two models, two detectors
  away = true;
  expect((await edge.inference(sampleOf(taskOf(0, 1, 6), 0))).source).toBe('task');
  expect((await edge.inference(sampleOf(taskOf(1, 1, 6), 0))).source).toBe('fallback');
  await edge.inference(sampleOf(taskOf(2, 1, 6), 0));
  await expect(edge.upload()).rejects.toThrow(/cable/);
  await edge.close();

  // A new process on the same disk, still without network.
  const restarted = await open({ knowledge: flaky, environment });
  await expect(restarted.edge.adopt()).rejects.toThrow(/cable/);
  expect(restarted.edge.restore()).toBe(true);
  expect((await restarted.inference(sampleOf(taskOf(0, 1, 7), 0))).source).toBe('task');
  away = false;
  expect(await restarted.upload()).toBe(1);
  expect((await base.samples()).map((s) => s.edge)).toHaveLength(1);
});

test('models at the edge stay within their budget', async () => {
  const { open } = bench(BY_PLACE);
  const teacher = await open();
  const places = [0, 1, 2, 3, 4, 5];
  const { candidates } = await teacher.train(several(places, 120, 1));
  await teacher.evaluate(several(places, 40, 2), candidates);
  const dir = folder();
  const edge = await open({ environment: { edge_output_url: dir, EDGE_BUDGET_BYTES: '30000' } });
  await edge.edge.adopt();
  for (const place of [...places, ...places])
    expect((await edge.inference(sampleOf(taskOf(place, 1, 9), 0))).task).toMatch(/place|global/);
  const files = readdirSync(join(dir, 'models'));
  expect(files.length).toBeGreaterThan(2);
  expect(files.length).toBeLessThan(14);
});

test('what is refused leaves the knowledge as it was', async () => {
  const { base, open } = bench(BY_PLACE);
  const learning = await open();
  const first = await learning.train(several([0, 1], 200, 1));
  await learning.evaluate(several([0, 1], 50, 2), first.candidates);
  const { tasks } = await base.snapshot();
  // Labels upside down: worse than what is there.
  const wrong = taskOf(0, 200, 3);
  const flipped = { ...wrong, labels: wrong.labels.map((l) => 1n - l) };
  const second = await learning.train(flipped);
  const { verdicts } = await learning.evaluate(taskOf(0, 80, 4), second.candidates);
  expect(verdicts[0]).toMatchObject({ task: 'place-0', revision: 2, admitted: false });
  expect(verdicts[0]?.reason).toMatch(/accuracy 0\.\d+, place-0@1 has 0\.\d+/);
  expect((await base.snapshot()).tasks).toEqual(tasks);
  // Nothing to evaluate on: not admitted either.
  const third = await learning.train(taskOf(2, 100, 5));
  const unheld = await learning.evaluate(taskOf(0, 40, 6), third.candidates);
  expect(unheld.verdicts[0]?.reason).toMatch(/no held-out samples/);
});

test('a new task whose model is no better is merged: known, and answered by what is better', async () => {
  const { base, open } = bench(BY_PLACE);
  const learning = await open({ criterion: { tolerance: -1 } }); // nothing can be that much better
  const { candidates } = await learning.train(several([0, 1], 200, 1));
  const { verdicts } = await learning.evaluate(several([0, 1], 60, 2), candidates);
  expect(verdicts.map((v) => v.admitted)).toEqual([true, false, false]);
  const { tasks } = await base.snapshot();
  expect(tasks.map((t) => t.name)).toEqual(['global', 'place-0', 'place-1']);
  expect(new Set(tasks.map((t) => t.model)).size).toBe(1);
  expect(tasks[1]?.reason).toMatch(/merged: accuracy/);
  await learning.edge.adopt();
  // An evaluation that is made again after its answer got lost says the same and changes nothing.
  const again = await learning.evaluate(several([0, 1], 60, 2), candidates);
  expect(again.verdicts.map((v) => [v.admitted, v.merged])).toEqual([
    [true, false],
    [false, true],
    [false, true],
  ]);
  expect((await base.snapshot()).tasks).toEqual(tasks);
  const { source, task } = await learning.inference(sampleOf(taskOf(0, 1, 3), 0));
  expect([source, task]).toEqual(['task', 'place-0']);
  // One model, but every place has a detector of its own: what is usual at one is strange at the other.
  const unseen = async (from: number, place: string): Promise<number> => {
    const samples = taskOf(from, 60, 7);
    let count = 0;
    for (let i = 0; i < samples.size; i++)
      if ((await learning.edge.infer({ ...sampleOf(samples, i), attributes: { place } })).isUnseen)
        count++;
    return count;
  };
  expect(await unseen(1, 'place-1')).toBeLessThan(15);
  expect(await unseen(1, 'place-0')).toBeGreaterThan(20);
});

test('what is below the threshold is neither admitted nor merged, and nothing is deployed of it', async () => {
  const { base, open } = bench(BY_PLACE);
  const learning = await open({ criterion: { threshold: 1.01 } });
  const { candidates } = await learning.train(several([0, 1], 100, 1));
  const { verdicts } = await learning.evaluate(several([0, 1], 40, 2), candidates);
  expect(verdicts.map((v) => v.admitted || v.merged)).toEqual([false, false, false]);
  expect((await base.snapshot()).tasks).toEqual([]);
  await expect(learning.edge.adopt()).rejects.toThrow(/no feature extractor|no global model/);
});

test('uploads are cut by bytes; a sample too large for the base is dropped, not sent for ever', async () => {
  const spool = new UnseenSpool({ path: ':memory:', edge: 'e' });
  const add = (length: number): void =>
    spool.add({
      task: '',
      attributes: {},
      shape: [length],
      inputs: new Float32Array(length),
      recordedAtMs: 1,
    });
  for (let i = 0; i < 6; i++) add(25_000);
  add(2 * 1024 * 1024);
  expect([spool.pendingCount, spool.dropped]).toEqual([6, 1]);
  expect(spool.pending(100, 250_000)).toHaveLength(2);
  expect(spool.pending(100, 1)).toHaveLength(1);
  expect(spool.pending(100)).toHaveLength(6);
  spool.close();
  await Promise.resolve();
});

test('a detector or a model file that was torn by a power cut is fetched again', async () => {
  const { open } = bench({ ...BY_PLACE, taskAllocation: { method: 'TaskAllocationByDetector' } });
  const teacher = await open();
  const { candidates } = await teacher.train(several([0, 1], 200, 1));
  await teacher.evaluate(several([0, 1], 50, 2), candidates);
  const dir = folder();
  const environment = { edge_output_url: dir, UNSEEN_ALPHA: '0.001' };
  const edge = await open({ environment });
  await edge.edge.adopt();
  await edge.inference(sampleOf(taskOf(1, 1, 5), 0));
  await edge.close();
  for (const file of readdirSync(join(dir, 'models'))) writeFileSync(join(dir, 'models', file), '');
  const again = await open({ environment });
  expect(again.edge.restore()).toBe(true);
  await again.edge.adopt();
  expect((await again.inference(sampleOf(taskOf(1, 1, 5), 0))).source).toBe('task');
});

test('too few samples wait; unknown attributes, no samples and odd sizes are told', async () => {
  const { base, open } = bench(BY_PLACE);
  const learning = await open();
  const few = concatenateTasks([taskOf(0, 200, 1), taskOf(1, 4, 1)]);
  const { waiting, candidates } = await learning.train(few);
  expect(waiting).toEqual([{ task: 'place-1', samples: 4 }]);
  await learning.evaluate(taskOf(0, 50, 2), candidates);
  await learning.edge.adopt();
  await expect(learning.train({ ...few, attributes: {} })).rejects.toThrow(
    /no attribute "place"; they have: none/,
  );
  await expect(learning.train({ ...few, size: 0 })).rejects.toThrow(/no samples/);
  const labels = few.labels.map(() => 7n);
  await expect(learning.train({ ...few, labels })).rejects.toThrow(
    /label 7 of sample 0 is not one of the model's 2 classes/,
  );
  const sample = sampleOf(taskOf(0, 1, 3), 0);
  await expect(learning.inference({ ...sample, attributes: {} })).rejects.toThrow(
    /the sample has no attribute "place"/,
  );
  await expect(learning.inference({ ...sample, inputs: new Float32Array(2) })).rejects.toThrow(
    /a sample has 5 values, got 2/,
  );
  expect((await base.snapshot()).tasks.map((t) => t.name)).toEqual(['global', 'place-0']);
});

test('features that are NaN are answered and called unseen, not crashed on', async () => {
  const { open } = bench(BY_FEATURES);
  const learning = await open();
  const { candidates } = await learning.train(several([0, 1], 200, 1));
  await learning.evaluate(several([0, 1], 50, 2), candidates);
  await learning.edge.adopt();
  const inputs = new Float32Array(WIDTH).fill(Number.POSITIVE_INFINITY);
  const result = await learning.inference({ inputs, attributes: {} });
  expect(Number.isInteger(result.label)).toBe(true);
  const known = await learning.inference(sampleOf(taskOf(0, 1, 5), 0));
  expect(known.isUnseen).toBe(false);
});

test('a component of your own is one file; one that throws changes nothing', async () => {
  const dir = folder();
  const path = join(dir, 'my-allocation.mjs');
  writeFileSync(
    path,
    `export default ({ place }) => ({
       fit: () => ({ place }),
       allocate: (state) => state.place,
     });`,
  );
  const { base, open } = bench({
    ...BY_PLACE,
    taskAllocation: { method: path, param: { place: 'place-1' } },
  });
  const learning = await open({ environment: { UNSEEN_ALPHA: '0.001' } });
  const { candidates } = await learning.train(several([0, 1], 100, 1));
  await learning.evaluate(several([0, 1], 50, 2), candidates);
  await learning.edge.adopt();
  expect((await learning.inference(sampleOf(taskOf(1, 1, 3), 0))).task).toBe('place-1');

  const bad = join(dir, 'bad.mjs');
  writeFileSync(bad, `export default () => ({ define() { throw new Error('my mistake'); } });`);
  const { version } = await base.snapshot();
  const broken = await open({ components: { ...BY_PLACE, taskDefinition: { method: bad } } });
  await expect(broken.train(several([0], 50, 1))).rejects.toThrow(/my mistake/);
  expect((await base.snapshot()).version).toBe(version);
  const nowhere: ComponentChoices = { taskDefinition: { method: join(dir, 'none.mjs') } };
  await expect(open({ components: nowhere })).rejects.toThrow(/taskDefinition: loading/);
  expect(existsSync(path)).toBe(true);
});

test('names that do not exist are answered with those that do', async () => {
  const { open } = bench(BY_PLACE);
  const choices = (method: string): Partial<LifelongOptions> => ({
    components: { ...BY_PLACE, taskRemodeling: { method } },
  });
  await expect(open(choices('Nothing'))).rejects.toThrow(
    /taskRemodeling: there is no "Nothing"; choose one of DefaultTaskRemodeling/,
  );
  await expect(open({ components: { taskMagic: {} } as ComponentChoices })).rejects.toThrow(
    /no slot "taskMagic"; slots are taskDefinition/,
  );
  const noAttribute = { taskDefinition: { method: 'TaskDefinitionByDataAttr' } };
  await expect(open({ components: noAttribute })).rejects.toThrow(/needs param/);
  const words = { taskDefinition: { method: 'TaskDefinitionBySVC', param: { n_class: 'many' } } };
  await expect(open({ components: words })).rejects.toThrow(/n_class must be a number, got "many"/);
});

test('a shared backbone trains the last layer alone', async () => {
  const { base, open } = bench({
    ...BY_PLACE,
    taskRemodeling: { method: 'TaskRemodelingBySharedBackbone' },
  });
  const learning = await open();
  const { candidates } = await learning.train(several([0, 1], 150, 1));
  const { Trainer } = await import('@shoal/training');
  const parametersOf = async (name: string): Promise<Map<string, Float32Array>> => {
    const model = await base.getModel(candidates.find((c) => c.name === name)?.model ?? '');
    const trainer = await Trainer.create({
      model,
      loss: 'softmax-cross-entropy',
      optimizer: { name: 'sgd', learningRate: 1 },
    });
    const parameters = trainer.getParameters();
    await trainer.release();
    return parameters;
  };
  const [global, own] = [await parametersOf('global'), await parametersOf('place-1')];
  const changed = [...own].filter(([n, v]) => v.some((x, i) => x !== global.get(n)?.[i]));
  expect(changed.map(([n]) => n.split('.')[0])).toEqual(['layer2', 'layer2']);
});

test('tasks that serve each other become one', async () => {
  const { base, open } = bench({
    ...BY_PLACE,
    taskRelationDiscovery: { method: 'TaskRelationByTransfer', param: { tolerance: 0.08 } },
  });
  const learning = await open();
  // Places 0 and 2 ask for opposite things; a second place 0 asks for the same.
  const twin = taskOf(0, 200, 9);
  const renamed = {
    ...twin,
    attributes: { place: twin.labels.length > 0 ? Array.from({ length: 200 }, () => 'twin') : [] },
  };
  const samples = concatenateTasks([taskOf(0, 200, 1), taskOf(2, 200, 1), renamed]);
  const { candidates } = await learning.train(samples);
  expect(candidates.map((c) => c.name)).toEqual(['global', 'place-0+twin', 'place-2']);
  expect((await base.snapshot()).relations).toHaveLength(9);
});
