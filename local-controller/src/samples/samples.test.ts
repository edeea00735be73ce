import {
  appendFileSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { HardExample } from '@shoal/api';
import { canonicalJson, digestOf } from '@shoal/core';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { appendOnce } from '../dataset/append-once.ts';
import { datasetFormat } from '../dataset/formats.ts';
import { datasetLine } from '../dataset/lines.ts';
import { HardExampleSpool } from './spool.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'shoal-samples-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

function example(n: number): HardExample {
  const data = { image: String(n).padStart(8, '0') };
  return { id: digestOf(canonicalJson(data)), data, collectedAt: '2026-01-01T00:00:00Z' };
}

const ROOMY = { maxSamples: 100, maxBytes: 1e6 };

describe('the spool', () => {
  test('keeps a sample once, also after it was sent, and over a restart', () => {
    const path = join(dir, 'spool.db');
    const spool = new HardExampleSpool(path);
    expect(spool.add('job', [example(1), example(2), example(1)], ROOMY)).toBe(2);
    spool.sent('job', [example(1).id]);
    spool.close();
    const again = new HardExampleSpool(path);
    expect(again.add('job', [example(1), example(2)], ROOMY)).toBe(0);
    expect(again.pending('job', 10, 1e6).map((s) => s.id)).toEqual([example(2).id]);
    expect(again.counts('job')).toEqual({ collected: 2, dropped: 0, spooled: 1 });
    again.close();
  });

  test('drops the oldest over its samples or bytes, and counts them', () => {
    const spool = new HardExampleSpool(join(dir, 'spool.db'));
    const all = Array.from({ length: 10 }, (_, i) => example(i));
    spool.add('job', all, { maxSamples: 4, maxBytes: 1e6 });
    expect(spool.pending('job', 10, 1e6).map((s) => s.id)).toEqual(all.slice(6).map((s) => s.id));
    const bytes = JSON.stringify(example(1)).length;
    spool.add('job', [example(11)], { maxSamples: 100, maxBytes: 2 * bytes });
    expect(spool.counts('job')).toEqual({ collected: 11, dropped: 9, spooled: 2 });
    expect(spool.pending('job', 10, bytes)).toHaveLength(1);
    const now = 1e12;
    spool.keepOnly(new Set(['job']), now);
    spool.keepOnly(new Set(), now + 3_600_000);
    expect(spool.counts('job').spooled).toBe(2);
    spool.keepOnly(new Set(), now + 8 * 24 * 3_600_000);
    expect(spool.counts('job')).toEqual({ collected: 0, dropped: 0, spooled: 0 });
    spool.close();
  });

  test('what is dropped on its way and arrives all the same was not dropped', () => {
    const spool = new HardExampleSpool(join(dir, 'spool.db'));
    spool.add('job', [example(1), example(2), example(3)], ROOMY);
    const onTheWay = spool.pending('job', 2, 1e6).map((s) => s.id);
    spool.add('job', [example(4)], { maxSamples: 2, maxBytes: 1e6 });
    expect(spool.counts('job')).toEqual({ collected: 4, dropped: 2, spooled: 2 });
    spool.sent('job', onTheWay);
    spool.sent('job', onTheWay);
    expect(spool.counts('job')).toEqual({ collected: 4, dropped: 0, spooled: 2 });
    spool.close();
  });
});

describe('a line of the dataset', () => {
  const data = { b: 2, a: 'x,"y"', text: 'hello' };

  test('has the format of the dataset', () => {
    const line = (format: string, header: string[] = []): string =>
      datasetLine({ data, label: 3 }, datasetFormat(format), header);
    expect(JSON.parse(line('jsonl'))).toEqual({ ...data, label: 3 });
    expect(line('csv', ['a', 'Label', 'b'])).toBe('"x,""y""",3,2');
    expect(line('csv', ['b', 'outcome'])).toBe('2,3');
    expect(line('txt')).toBe('hello 3');
  });

  test('a sample that lacks a column is refused by its name', () => {
    const csv = datasetFormat('csv');
    expect(() => datasetLine({ data, label: 3 }, csv, ['a', 'c', 'label'])).toThrow(
      'it has no "c"',
    );
    expect(() => datasetLine({ data: { a: 1 }, label: 3 }, datasetFormat('txt'), [])).toThrow(
      'a txt dataset needs {"text": one line}',
    );
    expect(() => datasetLine({ data: { a: 'x\ny' }, label: 3 }, csv, ['a', 'label'])).toThrow(
      'more than one line',
    );
    expect(() =>
      datasetLine({ data: { text: 'x' }, label: 'a\nb' }, datasetFormat('txt'), []),
    ).toThrow('a label of one');
  });
});

describe('appending once', () => {
  const batch = Buffer.from('{"n":1}\n{"n":2}\n{"n":3}\n');

  test('killed anywhere and begun again, with others appending: every line is there once', () => {
    fc.assert(
      fc.property(
        fc.nat({ max: batch.length }),
        fc.constantFrom('', '{"other":1}\n'),
        fc.constantFrom('', '{"before":1}\n'),
        (cut, other, before) => {
          const path = join(dir, 'data.jsonl');
          writeFileSync(path, before);
          const offset = before.length;
          // Somebody else came first, then the write stopped after `cut` bytes.
          appendFileSync(path, other);
          appendFileSync(path, batch.subarray(0, cut));
          appendOnce(path, batch, offset);
          appendOnce(path, batch, offset);
          expect(readFileSync(path, 'utf8')).toBe(before + other + batch.toString());
        },
      ),
    );
  });

  test('a complete batch that others appended to is not written again', () => {
    const path = join(dir, 'data.jsonl');
    writeFileSync(path, `${batch.toString()}{"other":1}\n`);
    appendOnce(path, batch, 0);
    expect(readFileSync(path, 'utf8')).toBe(`${batch.toString()}{"other":1}\n`);
  });

  test('a file whose last line has no end gets one, once nobody is writing it', () => {
    const path = join(dir, 'data.jsonl');
    writeFileSync(path, '{"n":0}');
    expect(() => appendOnce(path, batch, 7)).toThrow('somebody is writing its last line');
    const old = new Date(Date.now() - 60_000);
    utimesSync(path, old, old);
    appendOnce(path, batch, 7);
    expect(readFileSync(path, 'utf8')).toBe(`{"n":0}\n${batch.toString()}`);
  });
});
