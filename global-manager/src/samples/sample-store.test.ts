import type { HardExample } from '@shoal/api';
import { canonicalJson, digestOf } from '@shoal/core';
import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { SampleStore } from './sample-store.ts';

const JOB = { uid: 'u1', namespace: 'default', name: 'digits' };
const FROM = { node: 'edge-1', maxSamples: 100 };
const PERSON = { name: 'ada', automatic: false };
const MODEL = { name: 'big', automatic: true };

function example(n: number): { id: string; body: Buffer } {
  const data = { n };
  const id = digestOf(canonicalJson(data));
  const body: HardExample = { id, data, collectedAt: '2026-01-01T00:00:00Z' };
  return { id, body: Buffer.from(JSON.stringify(body)) };
}

let store: SampleStore;
beforeEach(() => {
  store = new SampleStore(':memory:');
});

const label = (n: number, value: number) => ({ id: example(n).id, label: value, confidence: 0 });

describe('taking samples', () => {
  test('a sample counts once, whoever sends it and however often', () => {
    expect(store.take(JOB, FROM, [example(1), example(2)]).taken).toHaveLength(2);
    expect(store.take(JOB, { ...FROM, node: 'edge-2' }, [example(1)]).taken).toHaveLength(1);
    expect(store.counts('u1').waiting).toBe(2);
  });

  test('a full job takes what it knows and says why it takes no more', () => {
    const { taken, reason } = store.take(JOB, { ...FROM, maxSamples: 2 }, [1, 2, 3].map(example));
    expect(taken).toEqual([example(1).id, example(2).id]);
    expect(reason).toMatch(/keeps 2 hard examples .*maxSamples/);
    expect(store.take(JOB, { ...FROM, maxSamples: 2 }, [example(1)]).taken).toHaveLength(1);
  });

  test('what is no hard example is taken off the edge and not kept', () => {
    const bad = { id: example(1).id, body: Buffer.from('{"data": 3}') };
    const path = { id: '../../etc', body: Buffer.from('{}') };
    expect(store.take(JOB, FROM, [bad, path]).taken).toHaveLength(2);
    expect(store.counts('u1').waiting).toBe(0);
  });
});

describe('labels', () => {
  beforeEach(() => store.take(JOB, FROM, [1, 2, 3].map(example)));

  test('unknown ids refuse the whole call and are named', () => {
    const unknown = { id: `sha256:${'0'.repeat(64)}`, label: 1, confidence: 0 };
    expect(() => store.label(JOB, [label(1, 7), unknown], PERSON)).toThrow(
      `1 of 2 samples are unknown: ${unknown.id}`,
    );
    expect(store.counts('u1')).toMatchObject({ waiting: 3, labelled: 0 });
  });

  test('a person overrules a model, a model no person; a suggestion waits for people', () => {
    store.label(JOB, [label(1, 7)], PERSON);
    expect(store.label(JOB, [label(1, 3), label(2, 4)], MODEL)).toBe(1);
    store.label(JOB, [label(2, 5)], PERSON);
    store.label(JOB, [{ id: example(3).id, suggestion: 9, confidence: 0.4 }], MODEL);
    expect(store.deliverable('u1', 10, 1e6).map((s) => s.label)).toEqual([7, 5]);
    const [waiting] = [...store.list('u1')];
    expect(waiting).toMatchObject({ state: 'suggested', suggestion: 9, confidence: 0.4 });
    store.label(JOB, [{ id: example(3).id, reject: 'blurred', confidence: 0 }], PERSON);
    expect(store.counts('u1')).toMatchObject({ waiting: 0, labelled: 2, rejected: 1 });
  });

  test('what is in the dataset cannot be labelled again by a person, nor in a batch under way', () => {
    store.label(JOB, [label(1, 7), label(2, 8)], PERSON);
    const [first, second] = store.deliverable('u1', 10, 1e6);
    if (!first || !second) throw new Error('nothing to deliver');
    expect(store.begin('u1', 'sha256:x', [first])).toMatchObject({ batch: 1, samples: 1 });
    expect(store.contentOf('u1', 1)).toEqual([first]);
    expect(() => store.label(JOB, [label(1, 1)], PERSON)).toThrow(/in the dataset already/);
    expect(store.delivered(JOB, 'sha256:of an earlier store', [])).toBe(false);
    expect(store.delivered(JOB, 'sha256:x', [])).toBe(true);
    expect(store.delivered(JOB, 'sha256:x', [])).toBe(false);
    // Labelled otherwise while its batch was being written: the batch does not begin.
    store.label(JOB, [label(2, 9)], PERSON);
    expect(store.begin('u1', 'sha256:y', [second])).toBeUndefined();
    expect(() => store.label(JOB, [label(1, 1)], PERSON)).toThrow(/in the dataset already/);
    expect([...store.list('u1', { ids: [example(1).id] })][0]?.body).toHaveLength(0);
    expect(store.take(JOB, FROM, [example(1)]).taken).toHaveLength(1);
    expect(store.counts('u1')).toMatchObject({ waiting: 1, labelled: 1, delivered: 1 });
  });

  test('samples that fit no line of the dataset are rejected with the reason', () => {
    store.label(JOB, [label(1, 7)], PERSON);
    store.begin('u1', 'sha256:x', store.deliverable('u1', 10, 1e6));
    store.delivered(JOB, 'sha256:x', [{ id: example(1).id, reason: 'it has no "a"' }]);
    expect([...store.list('u1', { state: 'rejected' })][0]?.reason).toBe('it has no "a"');
  });
});

test('in any order of sending, labelling and delivering, no sample is lost or delivered twice', () => {
  const step = fc.record({
    what: fc.constantFrom('take', 'label', 'begin', 'deliver'),
    n: fc.nat({ max: 9 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const s = new SampleStore(':memory:');
      const taken = new Set<string>();
      const delivered: string[] = [];
      let open: { digest: string; ids: string[] } | undefined;
      let batches = 0;
      for (const { what, n } of steps) {
        if (what === 'take') s.take(JOB, FROM, [example(n)]).taken.forEach((id) => taken.add(id));
        else if (what === 'label' && taken.has(example(n).id)) s.label(JOB, [label(n, n)], MODEL);
        else if (what === 'begin' && !s.openBatch('u1')) {
          const next = s.deliverable('u1', 3, 1e6);
          const digest = `sha256:${batches++}`;
          if (next.length > 0 && s.begin('u1', digest, next))
            open = { digest, ids: next.map((x) => x.id) };
        } else if (what === 'deliver' && open && s.delivered(JOB, open.digest, []))
          delivered.push(...open.ids);
      }
      expect(new Set(delivered).size).toBe(delivered.length);
      const { waiting, labelled, delivered: done } = s.counts('u1');
      expect(waiting + labelled + done).toBe(taken.size);
      expect(done).toBe(delivered.length);
      s.close();
    }),
  );
});

test('samples are read some at a time, and found by the beginning of their ids without their data', () => {
  const all = Array.from({ length: 150 }, (_, i) => example(i));
  store.take(JOB, { ...FROM, maxSamples: 1_000 }, all);
  expect([...store.list('u1')].map((s) => s.id)).toEqual(all.map((e) => e.id));
  expect([...store.list('u1', { limit: 70 })]).toHaveLength(70);
  const wanted = all[99]?.id ?? '';
  const [found, ...others] = [...store.list('u1', { state: 'any', prefix: wanted.slice(0, 40) })];
  expect([found?.id, found?.body.length, others.length]).toEqual([wanted, 0, 0]);
});

test('of rejected samples only the newest keep their data', () => {
  const all = Array.from({ length: 1_010 }, (_, i) => example(i));
  store.take(JOB, { ...FROM, maxSamples: 2_000 }, all);
  store.label(
    JOB,
    all.map(({ id }) => ({ id, reject: 'cannot be read', confidence: 0 })),
    MODEL,
  );
  const sizes = [...store.list('u1', { state: 'rejected' })].map((s) => s.body.length);
  expect(sizes.filter((n) => n === 0)).toHaveLength(10);
  expect(sizes.slice(0, 10).every((n) => n === 0)).toBe(true);
});

test('a job that is gone takes its samples along, one of the same name keeps its own', () => {
  store.take(JOB, FROM, [example(1)]);
  store.take({ ...JOB, uid: 'u2' }, FROM, [example(1)]);
  store.forget('default', 'digits', 'u2');
  expect(store.jobs().map((j) => j.uid)).toEqual(['u2']);
  expect(store.counts('u1').waiting).toBe(0);
});
