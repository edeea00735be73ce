import { seededRandom } from '@shoal/core';
import { expect, test } from 'vitest';
import { configureMiner } from './configured-miner.ts';
import { fitDeferral } from './deferral.ts';
import type { EdgeResult } from './miner.ts';

const classes = (...probabilities: number[]): EdgeResult => ({
  kind: 'probabilities',
  probabilities,
});

test('a temperature softens what the model says before it is judged', () => {
  const plain = configureMiner('Threshold', { threshold: '0.8' });
  const soft = configureMiner('Threshold', { threshold: '0.8', temperature: '2' });
  expect(plain.judge(classes(0.9, 0.1)).hard).toBe(false);
  // √0.9 / (√0.9 + √0.1) = 0.75
  expect(soft.judge(classes(0.9, 0.1)).score).toBeCloseTo(0.75, 12);
  expect(soft.judge(classes(0.9, 0.1)).hard).toBe(true);
});

test('a promised risk takes its threshold from a calibration file', () => {
  const random = seededRandom(1);
  const lines = Array.from({ length: 400 }, () => {
    const p = 0.5 + 0.5 * random.next();
    return JSON.stringify({ probabilities: [p, 1 - p], label: random.next() < p ? 0 : 1 });
  }).join('\n');
  const files = { readText: () => lines };
  const of = (more: Record<string, string>): number =>
    configureMiner('Threshold', { calibration: '/c.jsonl', ...more }, files).judge(
      classes(0.7, 0.3),
    ).threshold;
  const [loose, tight, sure] = [
    of({ risk: '0.1' }),
    of({ risk: '0.03' }),
    of({ risk: '0.1', delta: '0.05' }),
  ];
  expect(tight).toBeGreaterThan(loose);
  expect(sure).toBeGreaterThan(loose);
  const few = { readText: () => lines.split('\n').slice(0, 10).join('\n') };
  expect(() => configureMiner('Threshold', { risk: '0.05', calibration: '/c.jsonl' }, few)).toThrow(
    /from 10 calibration samples; at least 19/,
  );
});

test('an upload budget moves the threshold with the stream', () => {
  const miner = configureMiner('Threshold', { uploadBudget: '0.2' });
  const random = seededRandom(2);
  let hard = 0;
  for (let i = 0; i < 5_000; i++) {
    const p = 0.5 + 0.5 * random.next();
    if (miner.judge(classes(p, 1 - p)).hard) hard++;
  }
  expect(Math.abs(hard / 5_000 - 0.2)).toBeLessThan(0.015);
});

test('margin, entropy, energy and learned deferral by name', () => {
  expect(configureMiner('Margin').judge(classes(0.6, 0.3, 0.1)).score).toBeCloseTo(0.3, 12);
  expect(configureMiner('Entropy').judge(classes(0.5, 0.5)).score).toBeCloseTo(0, 12);
  const energy = configureMiner('Energy', { energy_center: '4', energy_scale: '1' });
  const weak = { ...classes(0.9, 0.1), logits: [2.2, 0] };
  const strong = { ...classes(0.9, 0.1), logits: [9.2, 7] };
  expect(energy.judge(strong).score).toBeGreaterThan(energy.judge(weak).score);
  const model = fitDeferral(
    Array.from({ length: 60 }, (_, i) => ({
      edge: i % 2 ? [0.55, 0.45] : [0.95, 0.05],
      edgeRight: i % 2 === 0,
      cloudRight: true,
    })),
  );
  const learned = configureMiner('LearnedDeferral', { model: JSON.stringify(model) });
  expect(learned.judge(classes(0.55, 0.45)).hard).toBe(true);
  expect(learned.judge(classes(0.95, 0.05)).hard).toBe(false);
});

test.each([
  [{ temperature: '0' }, /temperature must be a number > 0, got "0"/],
  [{ risk: '0.1' }, /risk needs calibration/],
  [{ risk: '0.1', uploadBudget: '0.1', calibration: 'x' }, /cannot both be promised/],
  [{ uploadBudget: '2' }, /uploadBudget must be in \(0, 1\), got 2/],
  [{ risk: '0.1', calibration: '/nowhere/at/all' }, /reading calibration \/nowhere/],
  [{ speed: '1' }, /no parameter "speed"/],
])('%j is refused with a reason', (parameters, message) => {
  expect(() => configureMiner('Threshold', parameters as Record<string, string>)).toThrow(message);
});

test('a line of the calibration file that is not as it should be is named', () => {
  const make = (text: string) => () =>
    configureMiner('Threshold', { risk: '0.1', calibration: '/c' }, { readText: () => text });
  expect(make('{"probabilities": [1], "label": 0}\noops')).toThrow(/\/c line 2: not JSON/);
  expect(make('{"label": 0}')).toThrow(/\/c line 1: expected/);
  expect(() => configureMiner('LearnedDeferral')).toThrow(/model must be given/);
});
