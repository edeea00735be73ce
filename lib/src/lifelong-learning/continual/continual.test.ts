import { seededRandom } from '@shoal/core';
import { dense, relu, sequential, zeros } from '@shoal/training';
import { afterEach, expect, test } from 'vitest';
import type { Samples } from '../../data/samples.ts';
import { CONTINUAL_NAMES, ContinualLearner, type ContinualStrategy } from './continual-learner.ts';
import { projectGradients } from './gradients.ts';
import { Memory } from './memory.ts';

const WIDTH = 6;

/** Two classes parted by a line that turns from task to task. */
function taskOf(task: number, size: number): Samples {
  const random = seededRandom(task * 100 + size);
  const inputs = Float32Array.from({ length: size * WIDTH }, () => random.normal());
  const labels = BigInt64Array.from({ length: size }, (_, i) => {
    const x = (k: number): number => inputs[i * WIDTH + k] ?? 0;
    // The task itself can be told from the last two features.
    inputs[i * WIDTH + 4] = task === 0 ? 1 : -1;
    return (task === 0 ? x(0) + x(1) : x(2) - x(0)) > 0 ? 1n : 0n;
  });
  return { inputs, labels, shape: [WIDTH], size };
}

const layers = [dense(24), relu(), dense(2)];
const model = (): Uint8Array => sequential({ input: [WIDTH], layers, random: seededRandom(1) });

const open: ContinualLearner[] = [];
afterEach(async () => {
  for (const learner of open.splice(0)) await learner.release();
});

async function learnerOf(strategy: ContinualStrategy): Promise<ContinualLearner> {
  const learner = await ContinualLearner.create({
    model: model(),
    strategy,
    optimizer: { name: 'sgd', learningRate: 0.1 },
    epochs: 8,
    threads: 1,
  });
  open.push(learner);
  return learner;
}

/** Accuracy on both tasks after learning one after the other. */
async function afterBoth(strategy: ContinualStrategy): Promise<[number, number]> {
  const learner = await learnerOf(strategy);
  for (const task of [0, 1]) await learner.learn(taskOf(task, 600));
  const scores: number[] = [];
  for (const task of [0, 1])
    scores.push((await learner.evaluate(taskOf(task, 400)))['accuracy'] ?? 0);
  return [scores[0] ?? 0, scores[1] ?? 0];
}

test('fine-tuning forgets; every strategy forgets less and still learns', async () => {
  const [naive] = await afterBoth({ name: 'fine-tune' });
  const strategies: ContinualStrategy[] = [
    { name: 'rehearsal', memory: 100 },
    { name: 'der++', memory: 100 },
    { name: 'a-gem', memory: 100 },
    { name: 'ewc', strength: 100 },
    { name: 'lwf', weight: 0.5 },
  ];
  expect(naive).toBeLessThan(0.85);
  for (const strategy of strategies) {
    const [old, fresh] = await afterBoth(strategy);
    expect([strategy.name, old > naive + 0.03, fresh > 0.7]).toEqual([strategy.name, true, true]);
  }
});

test('the projection takes out what would raise the loss on the memory, and nothing else', () => {
  const g = new Map([
    ['w', Float32Array.of(1, 2)],
    ['b', Float32Array.of(-1)],
  ]);
  const r = new Map([
    ['w', Float32Array.of(-1, 0)],
    ['b', Float32Array.of(2)],
  ]);
  // gᵀr = −3, rᵀr = 5: g + 3/5·r over all parameters together, not one by one.
  const projected = projectGradients(g, r);
  expect(projected.get('w')?.[0]).toBeCloseTo(0.4, 6);
  expect(projected.get('w')?.[1]).toBeCloseTo(2, 6);
  expect(projected.get('b')?.[0]).toBeCloseTo(0.2, 6);
  const agreeing = new Map([
    ['w', Float32Array.of(1, 0)],
    ['b', Float32Array.of(0)],
  ]);
  expect(projectGradients(g, agreeing)).toEqual(g);
});

test('the Fisher information is of single samples: p(1 − p)·x² for a logistic model', async () => {
  // Logits (0, 0): p = ½ in both classes, ∂ log p_k/∂w_c = (1[k=c] − ½)·x, so F = ¼·mean x² each.
  const flat = sequential({
    input: [2],
    layers: [dense(2, { initializer: zeros })],
    random: seededRandom(1),
  });
  const learner = await ContinualLearner.create({
    model: flat,
    strategy: { name: 'ewc', fisherSamples: 4 },
    // A step of almost nothing: the Fisher information is measured at the zero model.
    optimizer: { name: 'sgd', learningRate: 1e-9 },
    epochs: 1,
    threads: 1,
  });
  open.push(learner);
  const inputs = Float32Array.of(1, 0, -1, 2, 3, 0, -3, 2);
  await learner.learn({ inputs, labels: new BigInt64Array(4), shape: [2], size: 4 });
  const weight = [...learner.fisher.values()].find((v) => v.length === 4);
  const bias = [...learner.fisher.values()].find((v) => v.length === 2);
  // mean x₀² = (1+1+9+9)/4 = 5, mean x₁² = 2. A gradient of the batch mean would give 0 for x₀.
  for (const [i, wanted] of [1.25, 0.5, 1.25, 0.5].entries())
    expect(weight?.[i]).toBeCloseTo(wanted, 4);
  for (const value of bias ?? []) expect(value).toBeCloseTo(0.25, 4);
});

test('online EWC decays what it knew', async () => {
  const learner = await learnerOf({ name: 'ewc', strength: 10, decay: 0, fisherSamples: 10 });
  await learner.learn(taskOf(0, 64));
  const first = new Map([...learner.fisher].map(([k, v]) => [k, v.slice()]));
  await learner.learn(taskOf(1, 64));
  const changed = [...learner.fisher].some(([k, v]) =>
    v.some((x, i) => x < (first.get(k)?.[i] ?? 0)),
  );
  expect(changed).toBe(true); // with γ = 0 it may shrink; with γ = 1 it never does
});

/** Weights and bias of a linear model in float64: one SGD step on weighted slopes ∂L/∂z of samples. */
function stepByHand(
  theta: readonly number[],
  slopes: readonly { x: readonly number[]; dz: readonly number[] }[],
  rate: number,
): number[] {
  const next = [...theta];
  for (const { x, dz } of slopes) {
    for (const k of [0, 1]) {
      for (const f of [0, 1])
        next[k * 2 + f] = (next[k * 2 + f] ?? 0) - rate * (dz[k] ?? 0) * (x[f] ?? 0);
      next[4 + k] = (next[4 + k] ?? 0) - rate * (dz[k] ?? 0);
    }
  }
  return next;
}

function logitsByHand(theta: readonly number[], x: readonly number[]): [number, number] {
  const z = (k: number): number =>
    (theta[k * 2] ?? 0) * (x[0] ?? 0) + (theta[k * 2 + 1] ?? 0) * (x[1] ?? 0) + (theta[4 + k] ?? 0);
  return [z(0), z(1)];
}

function crossEntropySlope([a, b]: readonly [number, number], label: number): number[] {
  const p = 1 / (1 + Math.exp(b - a));
  return [p - (label === 0 ? 1 : 0), 1 - p - (label === 1 ? 1 : 0)];
}

test('a step of DER++ is CE on the new, α·MSE on kept logits, β·CE on kept labels, by hand', async () => {
  const [alpha, beta, rate] = [0.3, 0.7, 0.5];
  const linear = sequential({
    input: [2],
    layers: [dense(2, { initializer: zeros })],
    random: seededRandom(1),
  });
  const learner = await ContinualLearner.create({
    model: linear,
    strategy: { name: 'der++', memory: 1, alpha, beta },
    optimizer: { name: 'sgd', learningRate: rate },
    epochs: 1,
    batchSize: 1,
    threads: 1,
  });
  open.push(learner);
  const one = (x: number[], label: bigint): Samples => ({
    inputs: Float32Array.from(x),
    labels: BigInt64Array.of(label),
    shape: [2],
    size: 1,
  });
  await learner.learn(one([1, 2], 0n));
  let theta = stepByHand([0, 0, 0, 0, 0, 0], [{ x: [1, 2], dz: [-0.5, 0.5] }], rate);
  // From the second step on, the kept sample's logits are not what they were.
  const kept = logitsByHand(theta, [1, 2]);
  const second = [-1, 1];
  for (let step = 0; step < 2; step++) {
    const now = logitsByHand(theta, [1, 2]);
    const match = now.map((z, k) => (alpha * 2 * (z - (kept[k] ?? 0))) / 2);
    theta = stepByHand(
      theta,
      [
        { x: second, dz: crossEntropySlope(logitsByHand(theta, second), 1) },
        { x: [1, 2], dz: match },
        { x: [1, 2], dz: crossEntropySlope(now, 0).map((v) => beta * v) },
      ],
      rate,
    );
  }
  const two = { ...one([-1, 1, -1, 1], 1n), labels: BigInt64Array.of(1n, 1n), size: 2 };
  await learner.learn(two);
  const wanted = logitsByHand(theta, [0.5, -2]);
  const got = await learner.logits(one([0.5, -2], 0n));
  for (const k of [0, 1]) expect(got[k]).toBeCloseTo(wanted[k] ?? 0, 5);
});

test('a reservoir keeps each sample ever offered with equal probability', () => {
  const counts = new Float64Array(100);
  for (let trial = 0; trial < 2_000; trial++) {
    const memory = new Memory({ capacity: 10, random: seededRandom(trial) });
    for (let i = 0; i < 100; i++)
      memory.offer({ input: new Float32Array(), label: BigInt(i), logits: new Float32Array() });
    for (const { label } of memory.all()) counts[Number(label)] = (counts[Number(label)] ?? 0) + 1;
  }
  // Expected 200 each, standard deviation 13.4.
  for (const count of counts) expect(Math.abs(count - 200)).toBeLessThan(67);
});

test('a class-balanced memory keeps rare classes', () => {
  const memory = new Memory({ capacity: 20, random: seededRandom(1), kind: 'class-balanced' });
  for (let i = 0; i < 1_000; i++)
    memory.offer({
      input: new Float32Array(),
      label: i % 100 === 0 ? 1n : 0n,
      logits: new Float32Array(),
    });
  expect(memory.all().filter((m) => m.label === 1n)).toHaveLength(10);
  expect(memory.size).toBe(20);
});

test('an unknown strategy and an empty task are refused', async () => {
  const bad = { name: 'telepathy' } as unknown as ContinualStrategy;
  await expect(ContinualLearner.create({ model: model(), strategy: bad })).rejects.toThrow(
    /choose one of fine-tune, rehearsal/,
  );
  const learner = await learnerOf({ name: 'fine-tune' });
  await expect(learner.learn({ ...taskOf(0, 4), size: 0 })).rejects.toThrow(/no samples/);
  expect(CONTINUAL_NAMES).toHaveLength(6);
});
