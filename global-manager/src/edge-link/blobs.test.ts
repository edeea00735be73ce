import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { digestOf } from '@shoal/core';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { BlobStore } from './blobs.ts';

let dir = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'shoal-blobs-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

const data = Buffer.from('0123456789');
const digest = digestOf(data);
const chunk = (
  offset: number,
  end: number,
): { offset: number; sizeBytes: number; data: Buffer } => ({
  offset,
  sizeBytes: data.length,
  data: data.subarray(offset, end),
});

async function readAll(store: BlobStore, offset = 0): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of store.read(digest, offset, 4)) parts.push(part);
  return Buffer.concat(parts).toString();
}

test('a blob arrives in pieces, repeated ones are skipped, and is whole only once verified', async () => {
  const store = new BlobStore(dir);
  expect(store.append(digest, chunk(0, 4))).toBe(4);
  expect(store.stat(digest)).toEqual({ receivedBytes: 4, complete: false });
  expect(new BlobStore(dir).append(digest, chunk(2, 7))).toBe(7);
  expect(() => store.read(digest, 0, 4)).toThrow(/no blob/);
  store.append(digest, chunk(7, 10));
  await store.finish(digest);
  expect(store.stat(digest)).toEqual({ receivedBytes: 10, complete: true });
  expect(await readAll(store)).toBe('0123456789');
  expect(await readAll(store, 6)).toBe('6789');
});

test('what one sender leaves unfinished or spoils is not in the way of another', async () => {
  const store = new BlobStore(dir);
  store.append(digest, { ...chunk(0, 4), data: Buffer.from('junk') }, 'spy');
  expect(store.stat(digest, 'edge')).toEqual({ receivedBytes: 0, complete: false });
  store.append(digest, chunk(0, 10), 'edge');
  await store.finish(digest, 'edge');
  expect(await readAll(store)).toBe('0123456789');
  expect(store.append(digest, chunk(4, 8), 'spy')).toBe(10);
  await store.finish(digest, 'spy');
  expect(readdirSync(dir)).toHaveLength(1);
});

test('a gap, too many bytes, another content, and a digest that is a path are refused', async () => {
  const store = new BlobStore(dir);
  expect(() => store.append(digest, chunk(4, 8))).toThrow(/only 0 bytes are here/);
  expect(() => store.append(digest, { offset: 0, sizeBytes: 3, data })).toThrow(
    /longer than its 3 bytes/,
  );
  const wrong = digestOf('something else');
  store.append(wrong, chunk(0, 10));
  await expect(store.finish(wrong)).rejects.toMatchObject({
    code: 'data_corrupt',
    retry: 'backoff',
  });
  expect(store.stat(wrong).receivedBytes).toBe(0);
  expect(() => store.stat('../../etc/passwd')).toThrow(/not a sha256 digest/);
});
