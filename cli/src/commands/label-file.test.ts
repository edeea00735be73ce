import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { renderImage } from '../terminal/picture.ts';
import { readLabelFile, writeLabelFile } from './label-file.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'shoal-label-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

const file = (name: string, text: string): string => {
  const path = join(dir, name);
  writeFileSync(path, text);
  return path;
};

test('labels in a table or in JSON lines; lines without one are left alone', () => {
  const csv = file('l.csv', 'id,predicted,label\na,"3, or so",7\nb,2,\nc,1,cat\n');
  expect(readLabelFile(csv)).toEqual({
    verdicts: [
      { id: 'a', label: 7 },
      { id: 'c', label: 'cat' },
    ],
    skipped: 1,
  });
  const jsonl = file(
    'l.jsonl',
    '{"id":"a","label":0}\n\n{"id":"b","label":null}\n{"id":"c","reject":"dark"}\n',
  );
  expect(readLabelFile(jsonl)).toEqual({
    verdicts: [
      { id: 'a', label: 0 },
      { id: 'c', reject: 'dark' },
    ],
    skipped: 1,
  });
});

test.each([
  ['x.csv', 'sample,label\na,1\n', /has no column "id"; it has: sample, label/],
  ['x.jsonl', '{"id":"a","label":1}\nnothing\n', /line 2: not a JSON object/],
  ['x.jsonl', '{"label":1}\n', /line 1: it has no "id"/],
  ['x.jsonl', '{"id":"a","label":-1}\n', /line 1: -1 is no label/],
  ['x.jsonl', '{"id":"a","label":1}\n{"id":"a","label":2}\n', /line 2: a was there before/],
])('%s with %j is refused with its line', (name, text, reason) => {
  expect(() => readLabelFile(file(name, text))).toThrow(reason);
});

test('what is written can be filled and read', () => {
  const sample = {
    id: 'sha256:1',
    node: 'edge-1',
    state: 'suggested',
    example: { id: 'sha256:1', data: { text: 'a "b", c' }, predicted: 2, collectedAt: '' },
    label: undefined,
    suggestion: 4,
    confidence: 0.5,
    labelledBy: 'big',
    reason: '',
  } as const;
  for (const name of ['o.csv', 'o.jsonl']) {
    writeLabelFile(join(dir, name), [sample]);
    expect(readLabelFile(join(dir, name))).toEqual({ verdicts: [], skipped: 1 });
  }
});

test('a picture becomes lines, two rows in each', () => {
  const image = { width: 2, height: 4, pixels: Uint8Array.of(0, 255, 0, 255, 255, 0, 255, 0) };
  expect(renderImage(image, 80, false)).toBe(' @\n@');
  expect(renderImage(image, 80, true).split('\n')[0]).toBe(
    '\u001b[38;5;232;48;5;232m▀\u001b[38;5;231;48;5;231m▀\u001b[0m',
  );
});
