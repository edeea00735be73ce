import { mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { digestOf, seededRandom } from '@shoal/core';
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import type { Change, KnowledgeTask } from './knowledge-base.ts';
import { KnowledgeStore } from './store.ts';

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup();
});

function storeOf(options: { maxBytesPerJob?: number } = {}): {
  store: KnowledgeStore;
  dir: string;
} {
  const dir = mkdtempSync(join(tmpdir(), 'shoal-kb-'));
  const store = new KnowledgeStore({ dir, ...options });
  cleanups.push(() => {
    store.close();
    rmSync(dir, { recursive: true });
  });
  return { store, dir };
}

const MODELS = ['red', 'green', 'blue'].map((text) => Buffer.from(text));

function taskOf(
  name: string,
  revision: number,
  more: Partial<KnowledgeTask> = {},
): Extract<Change, { kind: 'task' }> {
  const model = MODELS[revision % MODELS.length] ?? Buffer.from('red');
  return {
    kind: 'task',
    task: {
      name,
      revision,
      attributes: { city: name },
      model: digestOf(model),
      modelBytes: model.length,
      samples: 10 * revision,
      metrics: { accuracy: 0.5 },
      classes: ['0', '1'],
      knowledge: {},
      ...more,
    },
  };
}

function verdictOf(
  name: string,
  revision: number,
  state: 'refused' | 'admitted' | 'retired',
): Change {
  const model = digestOf(MODELS[revision % MODELS.length] ?? Buffer.from('red'));
  return { kind: 'verdict', task: name, revision, model, state, metrics: { accuracy: 0.9 } };
}

function filled(): KnowledgeStore {
  const { store } = storeOf();
  for (const model of MODELS) store.putModel('j', model);
  return store;
}

test('a task is known once it is admitted; every version can be read again', () => {
  const store = filled();
  expect(store.commit('j', [taskOf('a', 1), taskOf('b', 1)])).toBe(1);
  expect(store.snapshot('j').tasks).toEqual([]);
  expect(store.commit('j', [verdictOf('a', 1, 'admitted'), verdictOf('b', 1, 'refused')])).toBe(2);
  store.commit('j', [taskOf('a', 2), verdictOf('a', 2, 'admitted')]);
  const names = (version?: number): string[] =>
    store.snapshot('j', version).tasks.map((t) => `${t.name}@${t.revision}`);
  expect(names()).toEqual(['a@2']);
  expect(names(2)).toEqual(['a@1']);
  expect(names(1)).toEqual([]);
  expect(store.snapshot('j').tasks[0]?.metrics).toEqual({ accuracy: 0.9 });
  expect(() => store.snapshot('j', 4)).toThrow(/versions 0 to 3, not 4/);
});

test('retiring the newest revision brings the one before back', () => {
  const store = filled();
  store.commit('j', [taskOf('a', 1), verdictOf('a', 1, 'admitted')]);
  store.commit('j', [taskOf('a', 2), verdictOf('a', 2, 'admitted')]);
  store.commit('j', [verdictOf('a', 2, 'retired')]);
  expect(store.snapshot('j').tasks[0]?.revision).toBe(1);
});

test('all changes of a commit or none; what is wrong is named', () => {
  const store = filled();
  const bad = taskOf('b', 1, { metrics: { accuracy: Number.NaN } });
  expect(() => store.commit('j', [taskOf('a', 1), bad])).toThrow(/task b: metric accuracy is NaN/);
  const missing = taskOf('b', 1, { model: digestOf('nowhere') });
  expect(() => store.commit('j', [taskOf('a', 1), missing])).toThrow(/put the model first/);
  expect(store.revisions('j')).toEqual([]);
  expect(store.snapshot('j').version).toBe(0);
});

test('jobs do not see each other', () => {
  const store = filled();
  store.commit('j', [taskOf('a', 1), verdictOf('a', 1, 'admitted')]);
  expect(store.snapshot('other').tasks).toEqual([]);
  expect(() => store.getModel('other', digestOf(MODELS[0] ?? ''))).toThrow(/has no model/);
  expect(store.jobs().map((j) => [j.job, j.tasks])).toEqual([['j', 1]]);
});

test('a full base refuses more, keeps what it has, and has room again after pruning', () => {
  const { store } = storeOf({ maxBytesPerJob: 100 });
  const models = [1, 2, 3, 4].map((n) => Buffer.alloc(30, n));
  const put = (n: number): string => store.putModel('j', models[n - 1] ?? Buffer.alloc(0));
  for (const n of [1, 2, 3]) {
    const model = put(n);
    const task = taskOf('a', n, { model });
    store.commit('j', [task, { ...verdictOf('a', n, 'admitted'), model } as Change]);
  }
  expect(() => put(4)).toThrow(/is full: 90 of 100 bytes are used, 30 more/);
  expect(store.snapshot('j').tasks[0]?.revision).toBe(3);
  expect(store.prune('j', 1)).toBe(60);
  expect(put(4)).toBe(digestOf(models[3] ?? ''));
  expect(store.snapshot('j').storedBytes).toBe(60);
  const sample: Change = {
    kind: 'sample',
    sample: {
      id: 's',
      edge: 'e',
      task: '',
      attributes: {},
      shape: [20],
      inputs: new Float32Array(20),
      recordedAtMs: 1,
    },
  };
  expect(() => store.commit('j', [sample])).toThrow(/is full/);
  expect(store.samples('j')).toEqual([]);
});

test('pruning removes what a dead training left, and counts anew', () => {
  const { store, dir } = storeOf();
  const orphan = store.putModel('j', Buffer.from('nobody names me'));
  const fresh = store.putModel('j', Buffer.from('on my way'));
  const folderOf = join(dir, 'models', digestOf('j').slice(7, 23));
  const dayBefore = new Date(Date.now() - 25 * 3600 * 1000);
  utimesSync(join(folderOf, orphan.slice(7)), dayBefore, dayBefore);
  expect(store.prune('j')).toBe('nobody names me'.length);
  expect(store.statModel('j', orphan)).toBeUndefined();
  expect(store.statModel('j', fresh)).toBe(9);
  expect(store.snapshot('j').storedBytes).toBe(9);
});

test('a damaged model file is noticed', () => {
  const { store, dir } = storeOf();
  const digest = store.putModel('j', Buffer.from('good'));
  writeFileSync(join(dir, 'models', digestOf('j').slice(7, 23), digest.slice(7)), 'evil');
  expect(() => store.getModel('j', digest)).toThrow(/damaged on disk/);
});

test('the nearest tasks by centroid; other widths and NaN are refused', () => {
  const store = filled();
  for (const [i, name] of ['a', 'b', 'c'].entries())
    store.commit('j', [
      taskOf(name, 1, { knowledge: { centroid: [i, 2 * i] } }),
      verdictOf(name, 1, 'admitted'),
    ]);
  expect(store.nearest('j', Float32Array.of(0.9, 2), 2).map((n) => n.task)).toEqual(['b', 'a']);
  expect(() => store.nearest('j', Float32Array.of(1), 1)).toThrow(/needs 2 finite features/);
  expect(() => store.nearest('j', Float32Array.of(1, Number.NaN), 1)).toThrow(/finite/);
});

const names = fc.constantFrom('a', 'b');
const edges = fc.constantFrom('edge-1', 'edge-2', 'edge-3');
const small = fc.integer({ min: 1, max: 3 });
const changes: fc.Arbitrary<Change> = fc.oneof(
  fc.tuple(names, small).map(([name, revision]) => taskOf(name, revision)),
  fc
    .tuple(names, small, fc.constantFrom('refused', 'admitted', 'retired'))
    .map(([name, revision, state]) => verdictOf(name, revision, state)),
  fc.tuple(names, small, small).map(
    ([name, revision, value]): Change => ({
      kind: 'shared',
      shared: { name, revision, value: { value } },
    }),
  ),
  fc.tuple(names, names, small, small).map(
    ([from, to, revision, value]): Change => ({
      kind: 'relation',
      relation: { from, to, kind: 'transfer', revision, value },
    }),
  ),
  fc.tuple(edges, small).map(
    ([edge, n]): Change => ({
      kind: 'sample',
      sample: {
        id: `${edge}/${n}`,
        edge,
        task: 'a',
        attributes: { n: String(n) },
        shape: [2],
        inputs: Float32Array.of(n, edge.length),
        recordedAtMs: n,
      },
    }),
  ),
  fc.tuple(edges, small, small, small).map(
    ([edge, n, label, atMs]): Change => ({
      kind: 'label',
      sample: `${edge}/${n}`,
      label,
      by: edge,
      atMs,
    }),
  ),
  fc.tuple(edges, small).map(
    ([edge, n]): Change => ({
      kind: 'usage',
      edge,
      counters: { inferences: n, unseen: 3 - n },
    }),
  ),
);

test('operations of several edges, in any order and with retries, give the same base', () => {
  const contents = (list: readonly Change[][]): string => {
    const store = filled();
    for (const commit of list) store.commit('j', commit);
    const { version: _differs, ...snapshot } = store.snapshot('j');
    const samples = store.samples('j').map((s) => ({ ...s, inputs: [...s.inputs] }));
    return JSON.stringify({ snapshot, samples, revisions: store.revisions('j') });
  };
  fc.assert(
    fc.property(
      fc.array(fc.array(changes, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 8 }),
      fc.integer({ min: 1, max: 1_000_000 }),
      (commits, seed) => {
        const random = seededRandom(seed);
        const retried = commits.flatMap((c) => (random.next() < 0.4 ? [c, c] : [c]));
        const shuffled = Array.from(random.permutation(retried.length), (i) => retried[i] ?? []);
        const flipped = shuffled.map((c) => c.toReversed());
        expect(contents(flipped)).toBe(contents(commits));
      },
    ),
    { numRuns: 40 },
  );
});
