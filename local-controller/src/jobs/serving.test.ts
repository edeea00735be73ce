import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { StageAssignment } from '@shoal/api';
import { digestOf, FakeClock, ShoalError, silentLogger } from '@shoal/core';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ModelStore } from '../model/model-store.ts';
import { EdgeDatabase } from '../store/database.ts';
import type { JobPorts } from './ports.ts';
import { Serving } from './serving.ts';

/** One node that serves a model: what it does as assignments come, with real files and a real store. */
let dir: string;
let db: EdgeDatabase;
let serving: Serving;
let reports: Map<string, Record<string, unknown>>;
const clock = new FakeClock(1_800_000_000_000);
const digest = (text: string): string => digestOf(Buffer.from(text));
const FOLDER = 'var/lib/sedna/model-hot-update/default/incrementallearningjob/eye';

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'shoal-serving-'));
  db = new EdgeDatabase(join(dir, 'edge.db'));
  reports = new Map();
  const cloud = {
    statBlob: () => Promise.resolve({ receivedBytes: 0, complete: true }),
    // What the cloud would refuse or not have: models must be here by then.
    getBlob: () => {
      throw new ShoalError('permission_denied', 'nothing assigned to this node mentions it');
    },
  };
  const models = new ModelStore(join(dir, 'models'), cloud as never);
  const link = {
    report: (key: string, body: object) => {
      db.outbox.putState(key, Buffer.from(JSON.stringify(body)));
      reports.set(key.split('/').at(-1) ?? '', { ...body });
    },
  };
  const hostPath = (path: string): string => join(dir, path);
  const ports = { db, link, models, clock, logger: silentLogger, hostPath };
  serving = new Serving('IncrementalLearningJob', ports as unknown as JobPorts);
  put('served.onnx', 'first');
});
afterEach(() => {
  db.close();
  rmSync(dir, { recursive: true });
});

function put(path: string, text: string): void {
  mkdirSync(dirname(join(dir, path)), { recursive: true });
  writeFileSync(join(dir, path), text);
}

/** A model this node has fetched. */
function fetched(text: string): string {
  put(`models/${digest(text).replace(':', '-')}`, text);
  return digest(text);
}

const round = 1;
function job(over: Partial<StageAssignment> = {}): StageAssignment {
  return {
    metadata: { name: 'eye', namespace: 'default', uid: 'u', generation: 1 },
    roles: ['deploy'],
    deployModel: { format: 'onnx', url: '/served.onnx' },
    hotUpdate: true,
    round,
    stage: 'Deploy',
    state: 'Running',
    ...over,
  } as StageAssignment;
}

/** What a worker that starts or looks now would load. */
function pointer(): string {
  const path = join(dir, FOLDER, 'model_config.json');
  if (!existsSync(path)) return readFileSync(join(dir, 'served.onnx'), 'utf8');
  const { model_config } = JSON.parse(readFileSync(path, 'utf8')) as {
    model_config: { model_path: string };
  };
  return readFileSync(join(dir, FOLDER, model_config.model_path.split('/').at(-1) ?? ''), 'utf8');
}

/** The worker says that it has taken what it was pointed at, or not. */
function answer(of: StageAssignment, status = 'completed'): void {
  serving.take(of, { kind: 'inference', status, results: [], ownerInfo: {} });
}

test('the first model that is rolled back gives way to the one the job began with, without the cloud', async () => {
  const second = fetched('second');
  await serving.serve(job({ accepted: second }));
  answer(job({ accepted: second }));
  expect(pointer()).toBe('second');
  expect(readFileSync(join(dir, 'served.onnx'), 'utf8')).toBe('second');
  await serving.serve(job({ withdrawn: second }));
  expect(pointer()).toBe('first');
  answer(job({ withdrawn: second }));
  expect(readFileSync(join(dir, 'served.onnx'), 'utf8')).toBe('first');
});

test('a node that missed a model, or its rollback, serves what the job serves; one that refused it does not', async () => {
  const [second, third] = [fetched('second'), fetched('third')];
  await serving.serve(job({ accepted: second }));
  answer(job({ accepted: second }));
  // It was pointed at the third and never answered; the job went back, and on.
  await serving.serve(job({ accepted: third, served: second }));
  expect(pointer()).toBe('third');
  await serving.serve(job({ served: second, stage: 'Train', state: 'Waiting' }));
  expect(pointer()).toBe('second');
  answer(job({ served: second }));
  // Tolerated while it was away: it catches up.
  await serving.serve(job({ served: third, stage: 'Train', state: 'Waiting' }));
  expect(pointer()).toBe('third');
  answer(job({ served: third }), 'failed');
  expect(pointer()).toBe('second');
  await serving.serve(job({ served: third, stage: 'Train', state: 'Waiting' }));
  expect(pointer()).toBe('second');
});

test('held models wait, also those that come late; releasing one says so', async () => {
  const [second, third] = [fetched('second'), fetched('third')];
  await serving.serve(job({ stage: 'Train', state: 'Waiting' }));
  const first = job({ accepted: second, hold: true });
  await serving.serve(first);
  expect([pointer(), reports.get('Rollout')?.['state']]).toEqual(['first', 'held']);
  const held = serving.held(first);
  expect(held).toMatchObject({ name: 'eye', digest: second });
  if (held) serving.release(first, held);
  await serving.serve(first);
  expect([pointer(), reports.get('Rollout')?.['state']]).toEqual(['second', 'released']);
  answer(first);
  expect(serving.held(first)).toBeUndefined();
  // Somebody holds this machine while a model comes that it missed.
  serving.isHolding = true;
  const late = job({ served: third, stage: 'Train', state: 'Waiting' });
  await serving.serve(late);
  expect(pointer()).toBe('second');
  expect(serving.held(late)).toMatchObject({ digest: third });
  serving.isHolding = false;
  await serving.serve(late);
  expect(pointer()).toBe('third');
  // A pin is for everybody at once.
  serving.isHolding = true;
  await serving.serve(job({ served: third, pinned: second }));
  expect(pointer()).toBe('second');
});

test('what may be served later does not hold up what is to be served now', async () => {
  const second = fetched('second');
  const missing = digest('not here');
  const both = job({ pinned: second, prefetch: missing });
  await expect(serving.serve(both)).rejects.toThrow(/mentions it/);
  expect(pointer()).toBe('second');
});
