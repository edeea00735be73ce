import {
  appendFileSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { DatasetAssignment } from '@shoal/api';
import { digestOf, isShoalError, messageOf, silentLogger, systemClock } from '@shoal/core';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MqttBroker } from '../../../e2e/mqtt-broker.ts';
import { datasetFormat } from '../dataset/formats.ts';
import { sampleLines } from '../dataset/lines.ts';
import { EdgeDatabase } from '../store/database.ts';
import { SampleIntake } from './intake.ts';
import { matches } from './mqtt.ts';
import { loadPlugins } from './plugins.ts';
import { DatasetSources } from './sources.ts';

let dir: string;
const closing: (() => unknown)[] = [];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'shoal-sources-'));
});
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
  rmSync(dir, { recursive: true });
});

type Spec = Partial<DatasetAssignment['spec']>;

/** A node with one dataset, `default/readings`. */
class Node {
  readonly db: EdgeDatabase;
  readonly sources: DatasetSources;
  readonly file: string;
  readonly dataset: DatasetAssignment;
  isClosed = false;

  constructor(spec: Spec, plugins = {}) {
    this.db = new EdgeDatabase(join(dir, 'edge.db'));
    const intake = new SampleIntake(join(dir, 'sources.db'));
    const hostPath = (path: string): string => join(dir, path);
    this.sources = new DatasetSources({
      db: this.db,
      intake,
      plugins,
      clock: systemClock,
      logger: silentLogger,
      hostPath,
    });
    this.dataset = {
      metadata: { name: 'readings', namespace: 'default', uid: 'u1', generation: 1 },
      spec: { url: '/data/readings.jsonl', format: 'jsonl', ...spec },
    };
    this.file = hostPath(this.dataset.spec.url);
    this.assign();
    closing.push(async () => {
      if (!this.isClosed) await this.close();
    });
  }

  async close(): Promise<void> {
    this.isClosed = true;
    await this.sources.close();
    this.db.close();
  }

  assign(spec: Spec = {}): void {
    const dataset = { ...this.dataset, spec: { ...this.dataset.spec, ...spec } };
    const body = Buffer.from(JSON.stringify(dataset));
    const key = { kind: 'Dataset', namespace: 'default', name: 'readings', uid: 'u1' };
    this.db.putObject({ ...key, rev: 1, op: 'put', digest: digestOf(body), body });
  }

  async look(): Promise<void> {
    this.sources.poll();
    await systemClock.sleep(20);
    this.sources.poll();
    await systemClock.sleep(20);
  }

  post(payload: string, more: { token?: string; isLocal?: boolean; id?: string } = {}): unknown {
    return this.sources.requests('default', 'readings').accept({
      token: undefined,
      isLocal: true,
      id: undefined,
      payload: Buffer.from(payload),
      ...more,
    });
  }

  codeOf(body: () => unknown): string {
    try {
      body();
      return 'taken';
    } catch (error) {
      return isShoalError(error) ? `${error.code}: ${error.message}` : messageOf(error);
    }
  }

  lines(): string[] {
    return existsSync(this.file)
      ? readFileSync(this.file, 'utf8')
          .split('\n')
          .filter((l) => l !== '')
      : [];
  }

  get status(): ReturnType<DatasetSources['status']> {
    return this.sources.status(this.dataset);
  }
}

describe('what comes in, as lines', () => {
  const lines = (text: string, format: string, header: string[] = []): unknown =>
    sampleLines(Buffer.from(text), datasetFormat(format), header);

  test('one object, a list, a line each; what is no sample is named', () => {
    expect(lines('{"t": 1700000000000000001}', 'jsonl')).toEqual({
      lines: ['{"t": 1700000000000000001}'],
      refused: [],
      rejected: 0,
    });
    expect(lines('[{"a":1},{"a":2}]', 'jsonl')).toMatchObject({ lines: ['{"a":1}', '{"a":2}'] });
    expect(lines('{"a":1}\n\n{"a":2}\r\n', 'jsonl')).toMatchObject({
      lines: ['{"a":1}', '{"a":2}'],
    });
    expect(lines('{\n "a": 1\n}', 'jsonl')).toMatchObject({ lines: ['{"a":1}'], refused: [] });
    const many = lines(`[${'1,'.repeat(60_000)}1]`, 'jsonl') as { refused: string[] };
    expect(many.refused).toEqual(['it has 60001 samples; send at most 50000 at a time']);
    expect(lines(`[${'1,'.repeat(99)}1]`, 'jsonl')).toMatchObject({
      refused: Array.from({ length: 20 }, () => 'a sample is a JSON object'),
      rejected: 100,
    });
    expect(lines('[1, {"a":2}]', 'jsonl')).toEqual({
      lines: ['{"a":2}'],
      refused: ['a sample is a JSON object'],
      rejected: 1,
    });
    expect(lines('{"a":', 'jsonl')).toMatchObject({ refused: [expect.stringMatching(/not JSON/)] });
    expect(sampleLines(Buffer.from([0xff, 0xfe]), datasetFormat('txt'), [])).toEqual({
      lines: [],
      refused: ['it is not UTF-8 text'],
      rejected: 1,
    });
  });

  test('CSV by columns, from text and from objects; a header that comes along is left out', () => {
    const header = ['t', 'name', 'y'];
    for (const head of ['t,name,y', '"t", "name" ,y'])
      expect(lines(`${head}\n1,"a,b",0\n`, 'csv', header)).toEqual({
        lines: ['1,"a,b",0'],
        refused: [],
        rejected: 0,
      });
    expect(lines('{"y":1,"name":"x, \\"q\\"","t":2}', 'csv', header)).toEqual({
      lines: ['2,"x, ""q""",1'],
      refused: [],
      rejected: 0,
    });
    expect(lines('1,2\n1,"2,3', 'csv', header)).toMatchObject({
      lines: [],
      refused: ['it has 2 columns, the dataset has 3', 'it has a quote that is not closed'],
    });
    expect(lines('{"t":1}', 'csv', header)).toMatchObject({
      refused: ['it has no "name", which the dataset has'],
    });
  });
});

describe('the intake', () => {
  test('whatever is torn off between, every delivery is in the file once, in its order', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            id: fc.option(fc.integer({ min: 0, max: 5 }), { nil: undefined }),
            lines: fc.integer({ min: 0, max: 3 }),
            crash: fc.constantFrom('no', 'before', 'partly', 'after'),
          }),
          { maxLength: 12 },
        ),
        (steps) => {
          const folder = mkdtempSync(join(dir, 'run-'));
          const path = join(folder, 'data.txt');
          let db = join(folder, 'sources.db');
          let intake = new SampleIntake(db);
          intake.begin('u', path, 0);
          const expected: string[] = [];
          const seen = new Set<number>();
          for (const [i, { id, lines, crash }] of steps.entries()) {
            intake.flush();
            const text = Array.from({ length: lines }, (_, k) => `${i}.${k}`);
            const delivery = {
              payload: Buffer.alloc(0),
              ...(id === undefined ? {} : { id: `${id}` }),
            };
            intake.take('u', delivery, { lines: text, refused: [], rejected: 0 }, i);
            if (id === undefined || !seen.has(id)) expected.push(...text);
            // Of what had no sample nothing is remembered.
            if (id !== undefined && lines > 0) seen.add(id);
            // The process ends somewhere while it appends: all, some or none of it is in the file.
            const before = existsSync(path) ? readFileSync(path).length : 0;
            const copy = join(folder, `copy-${i}.db`);
            if (crash !== 'no') snapshot(db, copy);
            intake.flush();
            if (crash === 'no') continue;
            const after = readFileSafely(path).length;
            intake.close();
            if (crash === 'before') truncateSafely(path, before);
            if (crash === 'partly') truncateSafely(path, before + Math.floor((after - before) / 2));
            if (crash === 'partly' || crash === 'after') markAppending(copy, before);
            db = copy;
            intake = new SampleIntake(db);
            // Nobody writes to the torn line any more.
            if (existsSync(path)) utimesSync(path, 1, 1);
          }
          intake.flush();
          intake.close();
          expect(readFileSafely(path).toString()).toBe(expected.map((l) => `${l}\n`).join(''));
        },
      ),
      { numRuns: 60 },
    );
  });
});

/** The database as it is on the disk now. */
function snapshot(from: string, to: string): void {
  for (const suffix of ['', '-wal'])
    if (existsSync(`${from}${suffix}`)) copyFileSync(`${from}${suffix}`, `${to}${suffix}`);
}

/** As it was in the middle of appending, the file that long before. */
function markAppending(path: string, offset: number): void {
  const db = new DatabaseSync(path);
  db.prepare(
    'UPDATE dataset SET offset=?, up_to=(SELECT max(seq) FROM taken WHERE lines IS NOT NULL) WHERE up_to IS NULL',
  ).run(offset);
  db.close();
}

function readFileSafely(path: string): Buffer {
  return existsSync(path) ? readFileSync(path) : Buffer.alloc(0);
}

function truncateSafely(path: string, length: number): void {
  if (existsSync(path)) truncateSync(path, length);
}

describe('the folder', () => {
  const put = (name: string, text: string): void => {
    mkdirSync(join(dir, 'in'), { recursive: true });
    writeFileSync(join(dir, 'in', name), text);
    utimesSync(join(dir, 'in', name), 1_000, 1_000);
  };

  test('takes whole files once, also after a restart; a changed one is new; half ones wait', async () => {
    put('a.jsonl', '{"n":1}\n{"n":2}\n');
    put('.hidden', '{"n":9}\n');
    put('b.tmp', '{"n":9}\n');
    const node = new Node({ source: { directory: { path: '/in' } } });
    await node.look();
    writeFileSync(join(dir, 'in', 'fresh.jsonl'), '{"n":3'); // being written just now
    await node.look();
    expect(node.lines()).toEqual(['{"n":1}', '{"n":2}']);
    const again = new Node({ source: { directory: { path: '/in' } } });
    appendFileSync(join(dir, 'in', 'fresh.jsonl'), '}\n');
    put('fresh.jsonl', '{"n":3}\n');
    await again.look();
    put('a.jsonl', '{"n":4}\n');
    await again.look();
    expect(again.lines()).toEqual(['{"n":1}', '{"n":2}', '{"n":3}', '{"n":4}']);
    expect(again.status).toMatchObject({ state: 'Running', received: 4, rejected: 0 });
    expect(existsSync(join(dir, 'in', 'a.jsonl'))).toBe(true);
  });

  test('deletes what was taken where it is told to; a missing folder is a fault that heals', async () => {
    const node = new Node({
      source: { directory: { path: '/in', suffix: '.log', after: 'delete' } },
    });
    await node.look();
    expect(node.status).toMatchObject({ state: 'Failed', message: expect.stringMatching(/in/) });
    put('a.log', '{"n":1}\n');
    put('bad.log', 'nonsense\n');
    put('b.txt', '{"n":2}\n');
    await node.look();
    expect(node.lines()).toEqual(['{"n":1}']);
    expect(existsSync(join(dir, 'in', 'a.log'))).toBe(false);
    // What was refused is left for somebody to look at.
    expect(existsSync(join(dir, 'in', 'bad.log'))).toBe(true);
    expect(existsSync(join(dir, 'in', 'b.txt'))).toBe(true);
    expect(node.status).toMatchObject({
      state: 'Running',
      received: 1,
      rejected: 1,
      lastRejection: expect.stringMatching(/not JSON/),
    });
  });
});

describe('what is remembered', () => {
  test('outlasts a week in a drawer, and a folder that is away for a moment', async () => {
    mkdirSync(join(dir, 'in'), { recursive: true });
    writeFileSync(join(dir, 'in', 'a.jsonl'), '{"n":1}\n');
    utimesSync(join(dir, 'in', 'a.jsonl'), 1_000, 1_000);
    const spec = { source: { directory: { path: '/in' } } };
    const node = new Node(spec);
    await node.look();
    renameSync(join(dir, 'in'), join(dir, 'away'));
    mkdirSync(join(dir, 'in'));
    await node.look();
    rmSync(join(dir, 'in'), { recursive: true });
    renameSync(join(dir, 'away'), join(dir, 'in'));
    await node.look();
    await node.close();
    const db = new DatabaseSync(join(dir, 'sources.db'));
    db.exec('UPDATE dataset SET seen=0');
    db.close();
    const again = new Node(spec);
    await again.look();
    expect(again.lines()).toEqual(['{"n":1}']);
    expect(again.status?.received).toBe(1);
  });

  test('what was refused is refused again, and takes no room', async () => {
    const node = new Node({ source: { http: {}, maxBytes: 2_048 } });
    await node.look();
    const refused = { samples: 0, refused: [expect.stringMatching(/not JSON/)] };
    expect(node.post('nonsense', { id: 'k' })).toEqual(refused);
    expect(node.post('nonsense', { id: 'k' })).toEqual(refused);
    expect(node.codeOf(() => node.post('x'.repeat(3_000)))).toMatch(
      /^invalid_argument: .*maxBytes/,
    );
    for (let i = 0; i < 50; i++) node.post('nonsense', { id: `k${i}` });
    const db = new DatabaseSync(join(dir, 'sources.db'), { readOnly: true });
    expect(db.prepare('SELECT count(*) AS n FROM taken').get()).toEqual({ n: 0 });
    db.close();
  });

  test('an append that failed says nothing of where lines will go', () => {
    const path = join(dir, 'data.txt');
    const intake = new SampleIntake(join(dir, 'intake.db'));
    closing.push(() => intake.close());
    intake.begin('u', path, 0);
    writeFileSync(path, 'half a li'); // somebody is writing
    const lines = { lines: ['5'], refused: [], rejected: 0 };
    intake.take('u', { payload: Buffer.alloc(0) }, lines, 0);
    expect(intake.flush().size).toBe(1);
    appendFileSync(path, 'ne\n15\n');
    expect(intake.flush().size).toBe(0);
    expect(readFileSync(path, 'utf8')).toBe('half a line\n15\n5\n');
  });
});

describe('requests', () => {
  test('only the node itself without a token; with one, whoever has it; a repeated key counts once', async () => {
    const node = new Node({ source: { http: {} } });
    await node.look();
    expect(node.codeOf(() => node.post('{"n":1}', { isLocal: false }))).toMatch(
      /^permission_denied/,
    );
    expect(node.post('{"n":1}', { id: 'k1' })).toEqual({ samples: 1, refused: [] });
    expect(node.post('{"n":1}', { id: 'k1' })).toEqual({ samples: 0, refused: [] });
    expect(node.post('{"n":1}')).toEqual({ samples: 1, refused: [] });
    expect(node.codeOf(() => node.post('{"n":1}', { id: 'x'.repeat(201) }))).toMatch(
      /Idempotency-Key/,
    );
    await node.look();
    expect(node.lines()).toEqual(['{"n":1}', '{"n":1}']);
    expect(node.codeOf(() => node.sources.requests('default', 'other').accept(REQUEST))).toMatch(
      /^not_found/,
    );
  });

  test('with a token of a Secret', async () => {
    const node = new Node({
      source: { http: { credentialName: 's' } },
      credentials: { token: 't0' },
    });
    await node.look();
    expect(node.codeOf(() => node.post('{"n":1}'))).toMatch(/^unauthenticated/);
    expect(node.codeOf(() => node.post('{"n":1}', { token: 'wrong' }))).toMatch(/^unauthenticated/);
    expect(node.post('{"n":1}', { token: 't0', isLocal: false })).toMatchObject({ samples: 1 });
  });

  test('a full dataset takes nothing, and everything again once there is room', async () => {
    const node = new Node({ source: { http: {}, maxBytes: 1_024 } });
    await node.look();
    const sample = JSON.stringify({ n: 'x'.repeat(300) });
    for (let i = 0; i < 3; i++) node.post(sample);
    expect(node.codeOf(() => node.post(sample))).toMatch(/^resource_exhausted: .*maxBytes \(1024/);
    await node.look();
    expect(node.lines()).toHaveLength(3);
    truncateSync(node.file, 0);
    expect(node.post(sample)).toMatchObject({ samples: 1 });
  });

  test('a CSV dataset needs its header line', async () => {
    const node = new Node({ url: '/data/r.csv', format: 'csv', source: { http: {} } });
    await node.look();
    expect(node.codeOf(() => node.post('1,2'))).toMatch(/^failed_precondition: .*header line/);
    mkdirSync(join(dir, 'data'), { recursive: true });
    writeFileSync(node.file, 'a,b\n');
    expect(node.post('1,2')).toMatchObject({ samples: 1 });
    await node.look();
    expect(readFileSync(node.file, 'utf8')).toBe('a,b\n1,2\n');
  });
});

const REQUEST = { token: undefined, isLocal: true, id: undefined, payload: Buffer.from('{}') };

test('topics by filters', () => {
  const of = (filter: string, ...topics: string[]): boolean[] =>
    topics.map((topic) => matches(filter, topic));
  expect(of('a/+/c', 'a/b/c', 'a/b', 'a/b/c/d', 'x/b/c')).toEqual([true, false, false, false]);
  expect(of('a/#', 'a', 'a/b', 'a/b/c', 'b')).toEqual([true, true, true, false]);
  expect(of('#', 'a', 'a/b')).toEqual([true, true]);
  expect(of('$share/nodes/a/+', 'a/b', 'b/b')).toEqual([true, false]);
});

describe('a broker', () => {
  const until = async (body: () => boolean): Promise<void> => {
    for (let i = 0; i < 400 && !body(); i++) await systemClock.sleep(25);
    expect(body()).toBe(true);
  };

  test('messages become samples; those sent while the node is away come afterwards', async () => {
    const broker = await MqttBroker.start();
    closing.push(async () => await broker.stop());
    const mqtt = { address: broker.address, topics: ['plant/+/temperature'] };
    const credentials = { username: 'node', password: 'secret' };
    const node = new Node({ source: { mqtt }, credentials });
    await node.look();
    await until(() => node.status?.state === 'Running');
    await broker.publish('plant/1/temperature', '{"t":20}');
    await broker.publish('plant/2/pressure', '{"p":1}');
    await broker.publish('plant/2/temperature', 'broken');
    await until(() => node.status?.received === 1 && node.status.rejected === 1);
    await node.close();
    for (let i = 0; i < 5; i++) await broker.publish('plant/3/temperature', `{"t":${i}}`);
    const again = new Node({ source: { mqtt }, credentials });
    await again.look();
    await until(() => again.status?.received === 6);
    await again.look();
    expect(again.lines()).toEqual(['{"t":20}', ...[0, 1, 2, 3, 4].map((t) => `{"t":${t}}`)]);
  });

  test('one that is away is waited for; one that refuses is told of; a full dataset loses nothing', async () => {
    const first = await MqttBroker.start();
    await first.stop();
    const mqtt = { address: first.address, topics: ['t'], credentialName: 's' };
    const node = new Node({
      source: { mqtt, maxBytes: 1_024 },
      credentials: { username: 'node', password: 'wrong' },
    });
    await node.look();
    await until(() => /ECONNREFUSED/.test(node.status?.message ?? ''));
    expect(node.status?.state).toBe('Connecting');
    const broker = await MqttBroker.start({ port: first.port });
    closing.push(async () => await broker.stop());
    await until(() => /[Nn]ot authorized/.test(node.status?.message ?? ''));
    node.assign({ credentials: { username: 'node', password: 'secret' } });
    await node.look();
    await until(() => node.status?.state === 'Running');
    const text = (n: number): string => JSON.stringify({ n, pad: 'x'.repeat(300) });
    for (let n = 0; n < 8; n++) await broker.publish('t', text(n));
    await until(() => node.status?.state === 'Full');
    await node.look();
    expect(node.lines()).toHaveLength(3);
    const seen = node.lines();
    for (let i = 0; i < 400 && seen.length < 8; i++) {
      // Somebody moves samples away: there is room again.
      seen.push(...node.lines().filter((l) => !seen.includes(l)));
      truncateSync(node.file, 0);
      await node.look();
    }
    expect(seen.map((l) => (JSON.parse(l) as { n: number }).n)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(node.status?.received).toBe(8);
  }, 30_000);
});

describe('sources of the node’s own', () => {
  test('are a module with factories; what it lacks is named', async () => {
    const path = join(dir, 'plugins.mjs');
    writeFileSync(
      path,
      `export const sources = { sensor: ({ options, sink }) => {
         sink.take({ payload: Buffer.from(JSON.stringify({ unit: options.parameters.unit })), id: 'one' });
         return { health: () => ({ state: 'Running' }), close: () => {} };
       } };`,
    );
    const plugins = await loadPlugins(path);
    const parameters = [{ key: 'unit', value: 'kelvin' }];
    const node = new Node({ source: { plugin: { name: 'sensor', parameters } } }, plugins);
    await node.look();
    expect(node.lines()).toEqual(['{"unit":"kelvin"}']);
    const other = new Node({ source: { plugin: { name: 'radar' } } }, plugins);
    await other.look();
    expect(other.status).toMatchObject({
      state: 'Failed',
      message: expect.stringMatching(/no source "radar"; it has sensor/),
    });
    writeFileSync(join(dir, 'wrong.mjs'), 'export const source = 1;');
    await expect(loadPlugins(join(dir, 'wrong.mjs'))).rejects.toThrow(/must export "sources"/);
    await expect(loadPlugins(join(dir, 'none.mjs'))).rejects.toThrow(/SHOAL_LC_SOURCE_PLUGINS/);
  });

  test('what cannot work says why', async () => {
    const both = new Node({ source: { http: {}, directory: { path: '/in' } } });
    await both.look();
    expect(both.status).toMatchObject({
      state: 'Failed',
      message: expect.stringMatching(/exactly one of/),
    });
    const poor = new Node({ source: { http: { credentialName: 's' } }, credentials: {} });
    await poor.look();
    expect(poor.status).toMatchObject({
      state: 'Failed',
      message: expect.stringMatching(/no token/),
    });
    const remote = new Node({ url: 's3://b/k.jsonl', source: { http: {} } });
    await remote.look();
    expect(remote.status).toMatchObject({
      state: 'Failed',
      message: expect.stringMatching(/remote/),
    });
  });
});
