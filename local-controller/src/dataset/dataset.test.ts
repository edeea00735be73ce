import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { datasetFormat } from './formats.ts';
import { countLines, NOTHING_READ, samplesIn } from './growing-file.ts';
import { divide, readRanges } from './split.ts';

let dir = '';
let file = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'shoal-dataset-'));
  file = join(dir, 'data');
});
afterEach(() => rmSync(dir, { recursive: true }));

test('counting in steps gives what counting at once gives, for any pieces', () => {
  fc.assert(
    fc.property(
      fc.array(
        fc.array(fc.constantFrom('a', 'bb', '', ' ', '\n', '\r\n', 'x\n', '\n\n'), {
          maxLength: 8,
        }),
        { maxLength: 8 },
      ),
      (pieces) => {
        writeFileSync(file, '');
        let progress = NOTHING_READ;
        for (const piece of pieces) {
          appendFileSync(file, piece.join(''));
          const result = countLines(file, progress);
          expect(result.rewritten).toBe(false);
          progress = result.progress;
        }
        const text = pieces.flat().join('');
        const complete = text.slice(0, text.lastIndexOf('\n') + 1);
        expect(progress.lines).toBe(complete.split('\n').filter((l) => l.trim() !== '').length);
        expect(countLines(file, NOTHING_READ).progress).toEqual(progress);
      },
    ),
  );
});

test('only new bytes are read, and a shrunk or rewritten file is noticed', () => {
  writeFileSync(file, 'one\ntwo\n');
  const first = countLines(file, NOTHING_READ).progress;
  expect(countLines(file, first)).toEqual({ progress: first, rewritten: false });
  writeFileSync(file, 'one\n');
  expect(countLines(file, first)).toMatchObject({ progress: { lines: 1 }, rewritten: true });
  writeFileSync(file, 'ONE\nTWO\nthree\n');
  expect(countLines(file, first)).toMatchObject({ progress: { lines: 3 }, rewritten: true });
  expect(() => countLines(join(dir, 'gone'), NOTHING_READ)).toThrow(/gone/);
});

test('formats: csv has a header, names are case-insensitive, others are refused by name', () => {
  writeFileSync(file, 'h1,h2\n1,2\n3,4\n');
  expect(samplesIn(countLines(file, NOTHING_READ).progress, datasetFormat('CSV'))).toBe(2);
  expect(samplesIn(NOTHING_READ, datasetFormat('csv'))).toBe(0);
  expect(() => datasetFormat('parquet')).toThrow(
    /"parquet" cannot be watched; supported are txt, csv, jsonl/,
  );
});

test('ranges come out in order with the header; floor(trainProb·n) trains', async () => {
  writeFileSync(file, 'h\n\n0\n1\n2\n\n3\n4\n');
  const { header, parts } = await readRanges(file, datasetFormat('csv'), [
    { from: 0, to: 2 },
    { from: 3, to: 5 },
    { from: 2, to: 2 },
  ]);
  expect(header).toEqual(['h']);
  expect(parts).toEqual([['0', '1'], ['3', '4'], []]);
  expect(divide({ from: 10, to: 17 }, 0.8)).toEqual({
    train: { from: 10, to: 15 },
    evaluation: { from: 15, to: 17 },
  });
});
