import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { seededRandom } from '@shoal/core';
import { afterEach, expect, test } from 'vitest';
import {
  allocationByAttribute,
  firstTask,
  nearestCentroid,
  type TaskAllocation,
  taskClassifier,
} from './allocation.ts';
import { ensembleAnswers, nearestAnswers } from './decisions.ts';
import {
  definitionByAttribute,
  definitionByCluster,
  definitionByDrift,
  definitionByOrigin,
  silhouette,
} from './definition.ts';
import {
  extractorFromJson,
  extractorToJson,
  featureRows,
  featuresOf,
  fitFeatures,
} from './features.ts';
import { weightedMean, weightedVote } from './integration.ts';
import { separateTasks, similarTasks } from './relation.ts';
import { readTaskSamples, type TaskSamples } from './task-samples.ts';

const dirs: string[] = [];
afterEach(() => {
  for (const dir of dirs.splice(0)) rmSync(dir, { recursive: true });
});

/** Three clouds, one after another. */
function clouds(each: number, spread: number = 0.3): TaskSamples {
  const random = seededRandom(1);
  const centres = [
    [0, 0, 0],
    [4, 0, 0],
    [0, 4, 1],
  ];
  const size = each * centres.length;
  const inputs = new Float32Array(size * 3);
  const cloud: string[] = [];
  for (let i = 0; i < size; i++) {
    const c = Math.floor(i / each);
    cloud.push(`cloud-${c}`);
    inputs.set(
      (centres[c] ?? []).map((v) => v + spread * random.normal()),
      i * 3,
    );
  }
  const season = cloud.map((_, i) => (i % 2 ? 'winter' : ''));
  return {
    inputs,
    labels: new BigInt64Array(size),
    shape: [3],
    size,
    attributes: { cloud, season },
  };
}

function contextOf(samples: TaskSamples): {
  features: Float32Array;
  width: number;
  random: ReturnType<typeof seededRandom>;
} {
  return { features: samples.inputs, width: 3, random: seededRandom(2) };
}

test('by attribute: one task per combination, named as Sedna joins values', () => {
  const samples = clouds(10);
  const tasks = definitionByAttribute(['cloud', 'season']).define(samples, contextOf(samples));
  expect(tasks.map((t) => [t.name, t.positions.length])).toContainEqual(['cloud-1_winter', 5]);
  expect(tasks.map((t) => t.name)).toContain('cloud-0_unknown');
  expect(tasks).toHaveLength(6);
});

test('by origin: two tasks', () => {
  const samples = clouds(4);
  const rule = { names: ['here', 'there'] as [string, string], contains: '-2', column: 'cloud' };
  const tasks = definitionByOrigin(rule).define(samples, contextOf(samples));
  expect(tasks.map((t) => [t.name, t.positions.length])).toEqual([
    ['there', 8],
    ['here', 4],
  ]);
});

test('by cluster: the silhouette finds how many clouds there are, and parts them', () => {
  const samples = clouds(40);
  const tasks = definitionByCluster({ clusters: 6 }).define(samples, contextOf(samples));
  expect(tasks.map((t) => t.positions.length)).toEqual([40, 40, 40]);
  expect(() => definitionByCluster({ clusters: 70 }).define(samples, contextOf(samples))).toThrow(
    /at least 140 samples/,
  );
});

test('silhouette by hand', () => {
  const rows = [[0], [1], [10]];
  // Own and other distances: 0.5 and 10, 0.5 and 9, 0 and 9.5.
  expect(silhouette(rows, [[0.5], [10]], [0, 0, 1])).toBeCloseTo((0.95 + 8.5 / 9 + 1) / 3, 12);
});

test('by drift: a stream is cut where it changes', () => {
  const samples = clouds(200);
  const tasks = definitionByDrift().define(samples, contextOf(samples));
  expect(tasks).toHaveLength(3);
  for (const [t, task] of tasks.entries())
    expect(Math.abs((task.positions[0] ?? 0) - 200 * t)).toBeLessThan(20);
});

function rightShare(allocation: TaskAllocation, samples: TaskSamples): number {
  const context = contextOf(samples);
  const taskOf = [...(samples.attributes['cloud'] ?? [])];
  const state = JSON.parse(
    JSON.stringify(allocation.fit({ samples, ...context, taskOf })),
  ) as ReturnType<TaskAllocation['fit']>;
  const held = clouds(50, 0.35);
  const right = (held.attributes['cloud'] ?? []).filter((cloud, i) => {
    const features = held.inputs.subarray(i * 3, (i + 1) * 3);
    return allocation.allocate(state, { attributes: { cloud, season: '' }, features }) === cloud;
  });
  return right.length / held.size;
}

test('allocation by centroid, by classifier and by attribute finds the task; by default it is the first', () => {
  const samples = clouds(60);
  expect(rightShare(nearestCentroid, samples)).toBeGreaterThan(0.99);
  expect(rightShare(taskClassifier, samples)).toBeGreaterThan(0.99);
  expect(rightShare(allocationByAttribute(['cloud']), samples)).toBe(1);
  expect(rightShare(firstTask, samples)).toBeCloseTo(1 / 3, 12);
});

test('attribute values nobody knows are no task, also when they are words of JavaScript', () => {
  const samples = clouds(5);
  const allocation = allocationByAttribute(['cloud']);
  const taskOf = [...(samples.attributes['cloud'] ?? [])];
  const state = allocation.fit({ samples, ...contextOf(samples), taskOf });
  for (const cloud of ['cloud-9', 'constructor', '__proto__'])
    expect(
      allocation.allocate(state, { attributes: { cloud }, features: new Float32Array() }),
    ).toBeUndefined();
});

test('relations: similar tasks become one, others stay apart', async () => {
  const samples = clouds(30);
  const tasks = definitionByAttribute(['cloud', 'season']).define(samples, contextOf(samples));
  const context = { ...contextOf(samples), transfer: () => Promise.resolve(0) };
  const { groups } = await similarTasks({ threshold: 0.7 }).discover(tasks, context);
  expect(groups.map((g) => g.length)).toEqual([2, 2, 2]);
  expect((await separateTasks.discover(tasks, context)).groups).toHaveLength(6);
});

test('features: principal components are orthonormal, ordered by spread, and survive JSON', () => {
  const random = seededRandom(4);
  const size = 500;
  const inputs = new Float32Array(size * 4);
  for (let i = 0; i < size; i++) {
    const [a, b] = [random.normal(), random.normal()];
    inputs.set([a, a + 0.01 * b, b, random.normal() * 0.3], i * 4);
  }
  const samples = { inputs, labels: new BigInt64Array(size), shape: [4], size };
  const extractor = fitFeatures(samples, random, 2);
  const row = (c: number): number[] => [...extractor.components.subarray(c * 4, (c + 1) * 4)];
  const dot = (x: number[], y: number[]): number => x.reduce((s, v, i) => s + v * (y[i] ?? 0), 0);
  expect(dot(row(0), row(0))).toBeCloseTo(1, 5);
  expect(dot(row(0), row(1))).toBeCloseTo(0, 5);
  // The first component is what two of the values share.
  expect(Math.abs(dot(row(0), [Math.SQRT1_2, Math.SQRT1_2, 0, 0]))).toBeGreaterThan(0.98);
  const again = extractorFromJson(JSON.parse(JSON.stringify(extractorToJson(extractor))));
  expect(featureRows(again, samples)).toEqual(featureRows(extractor, samples));
  // A value outside the span shows in the last feature alone.
  const inside = featuresOf(extractor, Float32Array.of(1, 1, 0, 0));
  const outside = featuresOf(extractor, Float32Array.of(1, -1, 0, 0));
  expect(outside[2] ?? 0).toBeGreaterThan(10 * (inside[2] ?? 1));
  expect(featuresOf(extractor, new Float32Array(4).fill(Number.NaN)).every(Number.isFinite)).toBe(
    true,
  );
  expect(() => extractorFromJson({ inputs: 3 })).toThrow(/no feature extractor/);
});

test('answers of several models: mean, vote, nearest and ensemble weights', () => {
  const opinions = [
    { probabilities: Float32Array.of(0.9, 0.1), weight: 0.25 },
    { probabilities: Float32Array.of(0.4, 0.6), weight: 0.75 },
  ];
  expect(weightedMean.integrate(opinions)[0]).toBeCloseTo(0.525, 6);
  expect([...weightedVote.integrate(opinions)]).toEqual([0.25, 0.75]);
  const near = [
    { task: 'a', distance: 1 },
    { task: 'b', distance: 1 + Math.log(3) },
  ];
  expect(nearestAnswers.weights(near)).toEqual([{ task: 'a', weight: 1 }]);
  expect(ensembleAnswers().weights(near)[0]?.weight).toBeCloseTo(0.75, 12);
  expect(ensembleAnswers().weights([])).toEqual([]);
});

test('CSV with attributes: numbers, missing values, class names; what is wrong has a line', () => {
  const dir = mkdtempSync(join(tmpdir(), 'shoal-csv-'));
  dirs.push(dir);
  const path = join(dir, 'votes.csv');
  const options = { attributes: ['city'], target: 'vote', classes: ['cooler', 'warmer'] };
  writeFileSync(path, 'ta,city,vote,rh\n21.5,athens,warmer,\n30,porto,0,55\n');
  const samples = readTaskSamples(path, options);
  expect([...samples.inputs]).toEqual([21.5, Number.NaN, 30, 55]);
  expect([...samples.labels]).toEqual([1n, 0n]);
  expect(samples.attributes).toEqual({ city: ['athens', 'porto'] });
  writeFileSync(path, 'ta,city,vote,rh\n21.5,athens,hotter,1\n');
  expect(() => readTaskSamples(path, options)).toThrow(
    /line 2: label "hotter" is not one of cooler/,
  );
  writeFileSync(path, 'ta,city,vote,rh\nwarm,athens,0,1\n');
  expect(() => readTaskSamples(path, options)).toThrow(
    /line 2, column "ta": "warm" is not a number/,
  );
  expect(() => readTaskSamples(path, { ...options, attributes: ['town'] })).toThrow(
    /no column "town"; it has: ta, city, vote, rh/,
  );
  expect(() => readTaskSamples(join(dir, 'votes.xls'))).toThrow(/unknown format ".xls"/);
});
