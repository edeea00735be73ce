import {
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { digestOf, seededRandom, silentLogger } from '@shoal/core';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openEdgeStore } from './open.ts';

let dir: string;
let path: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'edge-store-'));
  path = join(dir, 'edge.db');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function fill(records: number): void {
  const db = openEdgeStore(path, silentLogger);
  db.transaction(() => {
    for (let i = 0; i < 200; i++) {
      const body = Buffer.from(JSON.stringify({ i, pad: 'x'.repeat(500) }));
      const digest = digestOf(body);
      const key = { kind: 'Dataset', namespace: 'n', name: `o${i}`, uid: 'u' };
      db.putObject({ ...key, rev: i + 1, op: 'put', digest, body });
    }
    db.setCursor('s', 200);
  });
  for (let i = 0; i < records; i++) db.outbox.putState(`Job/n/k${i}`, Buffer.from(`{"i":${i}}`));
  db.close();
}

test('a file that is no database any more is put aside, and a new store begins', () => {
  fill(3);
  writeFileSync(path, 'nonsense');
  const db = openEdgeStore(path, silentLogger);
  expect(db.objects()).toEqual([]);
  expect(db.syncState()).toMatchObject({ storeId: '', cursor: 0 });
  expect(readFileSync(`${path}.damaged`, 'utf8')).toBe('nonsense');
  db.close();
});

test('wherever bits flip or the file ends too early: it opens, and what is served is what was received', () => {
  const random = seededRandom(7);
  let isFoundDamaged = 0;
  for (let run = 0; run < 60; run++) {
    for (const end of ['', '-wal', '-shm', '.damaged']) rmSync(`${path}${end}`, { force: true });
    fill(20);
    const bytes = readFileSync(path);
    if (run % 3 === 0) truncateSync(path, random.int(bytes.length));
    else {
      for (let i = 0; i < 8; i++) {
        const at = random.int(bytes.length);
        bytes[at] = (bytes[at] ?? 0) ^ (1 << random.int(8));
      }
      writeFileSync(path, bytes);
    }
    const db = openEdgeStore(path, silentLogger);
    const objects = db.objects();
    for (const { name, body } of objects)
      expect(body).toEqual({ i: Number(name.slice(1)), pad: 'x'.repeat(500) });
    // Either all is here, or the next session brings it.
    expect(objects.length === 200 || db.syncState().storeId === '').toBe(true);
    if (existsSync(`${path}.damaged`) || objects.length < 200) isFoundDamaged++;
    db.close();
  }
  expect(isFoundDamaged).toBeGreaterThan(10);
});

test('records that can still be read are carried over', () => {
  fill(50);
  const bytes = readFileSync(path);
  // The last page: objects and indices, not the records.
  bytes.fill(0xff, bytes.length - 4_096);
  writeFileSync(path, bytes);
  const db = openEdgeStore(path, silentLogger);
  expect(db.outbox.summary().records).toBeGreaterThan(0);
  db.close();
});
