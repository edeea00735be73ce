import { seededRandom } from '@shoal/core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { aggregateRound, MeanAccumulator } from './aggregate.ts';
import { Compressor, decompress } from './compression.ts';
import {
  addWeighted,
  allFinite,
  kernelVectors,
  perCoordinate,
  rankMeans,
  sortingNetwork,
  squaredDistance,
} from './kernels.ts';
import { RdpAccountant, sampledGaussianRdp } from './privacy/accountant.ts';
import { clipTo, nextBound } from './privacy/clipping.ts';
import { addGaussianNoise, noiseForMean } from './privacy/noise.ts';
import { createStrategy, STRATEGY_NAMES } from './strategies/strategies.ts';
import type { ModelUpdate, StrategyParameters, StrategyState } from './strategy.ts';

const D = 70;

function updatesOf(n: number, seed: number, scale = 1): ModelUpdate[] {
  const random = seededRandom(seed);
  return Array.from({ length: n }, (_, k) => ({
    participant: `p${k}`,
    samples: 1 + random.int(50),
    metrics: { loss: 0.2 + random.next() * 3, staleness: random.int(4) },
    delta: Float32Array.from({ length: D }, () => random.normal() * scale),
  }));
}

function run(
  name: string,
  updates: readonly ModelUpdate[],
  parameters: StrategyParameters = {},
  rounds = 1,
): number[] {
  const model = Float32Array.from({ length: D }, (_, i) => Math.sin(i));
  const state: StrategyState = {};
  for (let round = 1; round <= rounds; round++)
    aggregateRound(createStrategy(name, parameters), model, { updates, state, round });
  return Array.from(model);
}

const START = Array.from({ length: D }, (_, i) => Math.fround(Math.sin(i)));
const column = (updates: readonly ModelUpdate[], i: number): number[] =>
  updates.map((u) => u.delta[i] ?? 0);
const mean = (v: readonly number[]): number => v.reduce((a, b) => a + b, 0) / v.length;
const sum = (v: readonly number[]): number => v.reduce((a, b) => a + b, 0);
const weighted = (u: readonly ModelUpdate[], i: number): number =>
  sum(u.map((x) => x.samples * (x.delta[i] ?? 0))) / sum(u.map((x) => x.samples));
const norm = (u: ModelUpdate): number => Math.hypot(...u.delta);

/** Each strategy after its rounds, by the formulas of its paper in float64, one coordinate at a time. */
const ORACLES: readonly (readonly [
  string,
  StrategyParameters,
  number,
  (u: readonly ModelUpdate[], i: number) => number,
])[] = [
  ['FedAvg', {}, 1, (u, i) => (START[i] ?? 0) + weighted(u, i)],
  ['FedProx', { mu: 0.5 }, 1, (u, i) => (START[i] ?? 0) + weighted(u, i)],
  ['Ditto', {}, 1, (u, i) => (START[i] ?? 0) + weighted(u, i)],
  [
    'FedAvgM',
    { momentum: 0.9, learningRate: 0.5 },
    3,
    (u, i) => {
      let [v, w] = [0, START[i] ?? 0];
      for (let r = 0; r < 3; r++) {
        v = 0.9 * v + weighted(u, i);
        w += 0.5 * v;
      }
      return w;
    },
  ],
  ...(['FedAdagrad', 'FedAdam', 'FedYogi'] as const).map(
    (name) =>
      [
        name,
        { beta1: 0.8, beta2: 0.95, tau: 0.01, learningRate: 0.3 },
        4,
        (u: readonly ModelUpdate[], i: number): number => {
          let [m, v, w] = [0, 0.01 ** 2, START[i] ?? 0];
          const d = weighted(u, i);
          for (let r = 0; r < 4; r++) {
            m = 0.8 * m + 0.2 * d;
            if (name === 'FedAdagrad') v += d * d;
            else if (name === 'FedAdam') v = 0.95 * v + 0.05 * d * d;
            else v -= 0.05 * d * d * Math.sign(v - d * d);
            w += (0.3 * m) / (Math.sqrt(v) + 0.01);
          }
          return w;
        },
      ] as const,
  ),
  [
    'SCAFFOLD',
    { learningRate: 0.5, participation: 0.25 },
    1,
    (u, i) => (START[i] ?? 0) + (i < D / 2 ? 0.5 : 0.25) * mean(column(u, i)),
  ],
  [
    'FedBuff',
    { learningRate: 0.7 },
    1,
    (u, i) =>
      (START[i] ?? 0) +
      (0.7 * sum(u.map((x) => (x.delta[i] ?? 0) / Math.sqrt(1 + (x.metrics['staleness'] ?? 0))))) /
        u.length,
  ],
  [
    'q-FedAvg',
    { q: 0.5, learningRate: 0.2 },
    1,
    (u, i) => {
      const top = sum(u.map((x) => (x.metrics['loss'] ?? 0) ** 0.5 * 5 * (x.delta[i] ?? 0)));
      const h = sum(
        u.map(
          (x) =>
            0.5 * (x.metrics['loss'] ?? 0) ** -0.5 * 25 * norm(x) ** 2 +
            5 * (x.metrics['loss'] ?? 0) ** 0.5,
        ),
      );
      return (START[i] ?? 0) + top / h;
    },
  ],
  [
    'Median',
    {},
    1,
    (u, i) => {
      const s = column(u, i).toSorted((a, b) => a - b);
      return (
        (START[i] ?? 0) +
        ((s[Math.floor((s.length - 1) / 2)] ?? 0) + (s[Math.floor(s.length / 2)] ?? 0)) / 2
      );
    },
  ],
  [
    'TrimmedMean',
    { beta: 0.25 },
    1,
    (u, i) => {
      const cut = Math.floor(u.length * 0.25);
      return (
        (START[i] ?? 0) +
        mean(
          column(u, i)
            .toSorted((a, b) => a - b)
            .slice(cut, u.length - cut),
        )
      );
    },
  ],
  [
    'NormBounding',
    { bound: 3 },
    1,
    (u, i) => (START[i] ?? 0) + mean(u.map((x) => Math.min(1, 3 / norm(x)) * (x.delta[i] ?? 0))),
  ],
];

test.each(ORACLES)('%s %j follows its paper over %i rounds', (name, parameters, rounds, oracle) => {
  for (const n of [1, 2, 5, 9, 26]) {
    const updates = updatesOf(n, n);
    const got = run(name, updates, parameters, rounds);
    for (const [i, v] of got.entries()) expect(v).toBeCloseTo(oracle(updates, i), 4);
  }
});

test('the order of arrival changes nothing but the last bits; one participant is itself; no change changes nothing', () => {
  for (const name of STRATEGY_NAMES) {
    const updates = updatesOf(7, 3);
    const a = run(name, updates);
    const b = run(name, updates.toReversed());
    for (const [i, v] of a.entries()) expect(b[i]).toBeCloseTo(v, 4);
    const still = updates.map((u) => ({ ...u, delta: new Float32Array(D) }));
    for (const [i, v] of run(name, still).entries()) expect(v).toBeCloseTo(START[i] ?? 0, 6);
  }
  for (const name of ['FedAvg', 'FedProx', 'Median', 'TrimmedMean', 'GeometricMedian', 'Ditto']) {
    const [only] = updatesOf(1, 4);
    if (!only) throw new Error('no update');
    for (const [i, v] of run(name, [only]).entries())
      expect(v).toBeCloseTo((START[i] ?? 0) + (only.delta[i] ?? 0), 5);
  }
});

test('adding up as updates arrive gives the bits of adding them up at once', () => {
  const updates = updatesOf(12, 8);
  const strategy = createStrategy('FedAvg');
  const streamed = new MeanAccumulator(strategy, new Float32Array(D));
  for (const u of updates) streamed.add(u);
  const at = new Float32Array(D);
  addWeighted(
    at,
    updates.map((u) => u.delta),
    updates.map((u) => u.samples),
  );
  const total = sum(updates.map((u) => u.samples));
  expect(Array.from(streamed.finish())).toEqual(Array.from(at.map((v) => v * (1 / total))));
});

/** The honest move by about +1 per coordinate; what attackers send instead. */
const ATTACKS: readonly (readonly [string, (honest: Float32Array) => Float32Array])[] = [
  ['sign flip', (d) => d.map((v) => -v)],
  ['scaling', (d) => d.map((v) => v * 1000)],
  ['the same value', (d) => d.map(() => 50)],
  ['inner product', (d) => d.map((v) => -3 * v)],
];

test.each(ATTACKS)(
  'robust rules hold against %s by f of n, with tiny changes too',
  (_what, attack) => {
    for (const size of [1, 1e-4]) {
      const random = seededRandom(5);
      const honest = Array.from({ length: 11 }, (_, k) => ({
        participant: `h${k}`,
        samples: 10,
        metrics: {},
        delta: Float32Array.from({ length: D }, () => size * (1 + 0.1 * random.normal())),
      }));
      const centre = Float32Array.from({ length: D }, (_, i) => mean(column(honest, i)));
      const bad = Array.from({ length: 3 }, (_, k) => ({
        participant: `m${k}`,
        samples: 10,
        metrics: {},
        delta: attack(centre),
      }));
      const updates = [...bad, ...honest];
      const rules: readonly (readonly [string, StrategyParameters])[] = [
        ['Median', {}],
        ['TrimmedMean', { beta: 0.25 }],
        ['Krum', { malicious: 3 }],
        ['MultiKrum', { malicious: 3 }],
        ['GeometricMedian', { iterations: 30, smoothing: 1e-9 }],
        ['CenteredClipping', { radius: 0.5 * size * Math.sqrt(D), iterations: 20 }],
      ];
      for (const [name, parameters] of rules) {
        const model = new Float32Array(D);
        aggregateRound(createStrategy(name, parameters), model, { updates, state: {}, round: 1 });
        const away = Math.sqrt(squaredDistance(model, centre)) / (size * Math.sqrt(D));
        expect(away).toBeLessThan(0.75);
      }
      const plain = new Float32Array(D);
      aggregateRound(createStrategy('FedAvg'), plain, { updates, state: {}, round: 1 });
      const moved = Math.sqrt(squaredDistance(plain, centre)) / (size * Math.sqrt(D));
      expect(moved).toBeGreaterThan(0.4); // the attack works on a plain mean
    }
  },
);

test('Bulyan keeps its promise at n = 4f + 3 and refuses fewer', () => {
  const honest = updatesOf(9, 6, 0.1).map((u) => ({ ...u, delta: u.delta.map((v) => v + 1) }));
  const bad = Array.from({ length: 2 }, (_, k) => ({
    participant: `m${k}`,
    samples: 1,
    metrics: {},
    delta: new Float32Array(D).fill(-100),
  }));
  const model = new Float32Array(D);
  aggregateRound(createStrategy('Bulyan', { malicious: 2 }), model, {
    updates: [...honest, ...bad],
    state: {},
    round: 1,
  });
  for (const v of model) expect(Math.abs(v - 1)).toBeLessThan(0.2);
  expect(() => run('Bulyan', updatesOf(10, 1), { malicious: 2 })).toThrow(
    /needs at least 11 updates for its promise, there are 10/,
  );
  expect(() => run('Krum', updatesOf(4, 1), { malicious: 1 })).toThrow(/needs at least 5 updates/);
});

function exchanged(
  row: readonly number[],
  pairs: readonly (readonly [number, number])[],
): number[] {
  const sorted = [...row];
  for (const [a, b] of pairs) {
    const [x, y] = [sorted[a] ?? 0, sorted[b] ?? 0];
    sorted[a] = Math.min(x, y);
    sorted[b] = Math.max(x, y);
  }
  return sorted;
}

test('sorting networks sort: every column, by the zero-one principle', () => {
  for (const n of [1, 2, 3, 5, 7, 8, 12, 16]) {
    const pairs = sortingNetwork(n);
    for (let bits = 0; bits < 2 ** Math.min(n, 12); bits++) {
      const row = Array.from({ length: n }, (_, i) => (bits >> i) & 1);
      expect(exchanged(row, pairs)).toEqual(row.toSorted((a, b) => a - b));
    }
  }
});

test('coordinate-wise sorting agrees with a plain sort for any count and length', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 130 }),
      fc.integer({ min: 1, max: 2_100 }),
      fc.integer(),
      (n, size, seed) => {
        const random = seededRandom(seed);
        const inputs = Array.from({ length: n }, () =>
          Float32Array.from({ length: size }, () => random.normal()),
        );
        const rank = random.int(n);
        const got = perCoordinate(inputs, (rows, result, { from, count }) => {
          for (let i = 0; i < count; i++) result[from + i] = rows[rank]?.[i] ?? 0;
        });
        const to = rank + 1 + random.int(n - rank);
        const [one, some] = [rankMeans(inputs, [rank, rank + 1]), rankMeans(inputs, [rank, to])];
        for (let i = 0; i < size; i++) {
          const sorted = inputs.map((x) => x[i] ?? 0).toSorted((a, b) => a - b);
          expect(got[i]).toBe(sorted[rank]);
          expect(one[i]).toBe(sorted[rank]);
          expect(some[i]).toBeCloseTo(mean(sorted.slice(rank, to)), 5);
        }
      },
    ),
    { numRuns: 25 },
  );
});

/** Where the inputs are changes no bit of a sum, and nothing beyond it is touched. */
function expectOneSum(n: number, size: number): void {
  const weights = Array.from({ length: n }, (_, k) => Math.sin(k + 1));
  const plain = weights.map((_, k) =>
    Float32Array.from({ length: size }, (__, i) => Math.cos(i * (k + 1)) - 0.5),
  );
  const expected = new Float32Array(size).fill(-0);
  for (const [k, x] of plain.entries())
    for (let i = 0; i < size; i++)
      expected[i] = (expected[i] ?? 0) + Math.fround(Math.fround(weights[k] ?? 0) * (x[i] ?? 0));
  const [target, ...inputs] = kernelVectors(n + 2, size);
  const guard = inputs.pop()?.fill(7);
  target?.fill(-0);
  for (const [k, x] of inputs.entries()) x.set(plain[k] ?? []);
  addWeighted(target ?? new Float32Array(), inputs, weights);
  expect(target).toEqual(expected);
  expect(guard?.every((v) => v === 7)).toBe(true);
  const elsewhere = new Float32Array(size).fill(-0);
  addWeighted(elsewhere, plain, weights);
  expect(elsewhere).toEqual(expected);
}

test('weighted sums of any length agree with float64; NaN and infinity are seen', () => {
  for (const size of [1, 15, 16, 17, 16_384, 16_385, 40_000]) {
    const inputs = [1, 2, 3].map((k) =>
      Float32Array.from({ length: size }, (_, i) => Math.cos(i * k)),
    );
    const target = new Float32Array(size).fill(0.5);
    addWeighted(target, inputs, [0.25, -2, 3]);
    for (const i of [0, size >> 1, size - 1])
      expect(target[i]).toBeCloseTo(
        0.5 + 0.25 * Math.cos(i) - 2 * Math.cos(2 * i) + 3 * Math.cos(3 * i),
        5,
      );
  }
  for (const size of [1, 15, 16, 17, 1_000])
    for (const n of [1, 2, 3, 4, 5, 9]) expectOneSum(n, size);
  expect(allFinite(Float32Array.of(1, -2, 3e38))).toBe(true);
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])
    expect(allFinite(Float32Array.of(1, bad, 3))).toBe(false);
});

test('adaptive clipping settles at the wanted quantile from below and from above', () => {
  const random = seededRandom(1);
  for (const start of [0.01, 100]) {
    let bound = start;
    for (let round = 0; round < 400; round++) {
      const within = Array.from({ length: 50 }, () => {
        const length = Math.exp(random.normal()); // median 1
        return clipTo(Float32Array.of(length, 0), bound);
      });
      bound = nextBound(bound, within.filter(Boolean).length / 50, {
        quantile: 0.5,
        learningRate: 0.2,
      });
    }
    expect(bound).toBeGreaterThan(0.75);
    expect(bound).toBeLessThan(1.35);
  }
  const delta = Float32Array.of(3, 4);
  expect(clipTo(delta, 1)).toBe(false);
  expect(Math.hypot(...delta)).toBeCloseTo(1, 6);
});

test('noise has the standard deviation asked for, where variance would show, and follows the largest weight', () => {
  for (const sigma of [0.1, 3]) {
    const values = new Float32Array(40_001);
    addGaussianNoise(values, sigma);
    expect(Math.abs(mean(Array.from(values)))).toBeLessThan(sigma * 0.03);
    expect(Math.sqrt(mean(Array.from(values, (v) => v * v)))).toBeCloseTo(sigma, sigma < 1 ? 2 : 1);
  }
  expect(noiseForMean(2, 3, [1, 1, 8])).toBeCloseTo(2 * 3 * 0.8, 10);
});

/** Rényi divergence of order α between (1−q)N(0,σ²) + qN(1,σ²) and N(0,σ²), by Simpson's rule. */
function numericRdp(q: number, sigma: number, order: number): number {
  const [from, to, steps] = [-30 * sigma, order + 30 * sigma, 200_000];
  const h = (to - from) / steps;
  const density = (x: number, m: number): number =>
    Math.exp(-((x - m) ** 2) / (2 * sigma ** 2)) / (sigma * Math.sqrt(2 * Math.PI));
  let total = 0;
  for (let i = 0; i <= steps; i++) {
    const x = from + i * h;
    const base = density(x, 0);
    if (base === 0) continue;
    const ratio = 1 - q + q * Math.exp((2 * x - 1) / (2 * sigma ** 2));
    total += (i === 0 || i === steps ? 1 : i % 2 ? 4 : 2) * base * ratio ** order;
  }
  return Math.log((total * h) / 3) / (order - 1);
}

test('the accountant agrees with numerical integration within one percent, and stops at nothing', () => {
  for (const [q, sigma, order] of [
    [0.01, 1.1, 8],
    [0.1, 2, 4],
    [0.3, 0.8, 3],
    [0.001, 0.7, 6],
  ] as const) {
    const wanted = numericRdp(q, sigma, order);
    expect(Math.abs(sampledGaussianRdp(q, sigma, order) / wanted - 1)).toBeLessThan(0.01);
  }
  expect(sampledGaussianRdp(1, 2, 10)).toBeCloseTo(10 / 8, 10);
  const accountant = new RdpAccountant(1e-5);
  expect(accountant.epsilon).toBe(0);
  // TensorFlow Privacy's tutorial: 60,000 samples, batch 250, noise 1.3, 15 epochs: ε = 1.18 by the
  // conversion of Mironov 2017; the one used here is tighter.
  const classic = Array.from({ length: 62 }, (_, k) => {
    const rdp = 3600 * sampledGaussianRdp(250 / 60_000, 1.3, k + 2);
    return rdp + Math.log(1e5) / (k + 1);
  });
  expect(Math.min(...classic)).toBeCloseTo(1.18, 1);
  accountant.add(3600, 250 / 60_000, 1.3);
  expect(accountant.epsilon).toBeLessThan(Math.min(...classic));
  expect(accountant.epsilon).toBeGreaterThan(0.8);
  expect(() => new RdpAccountant(0)).toThrow(/delta must be in/);
});

test('compression keeps its size, and error feedback brings the lost part later', () => {
  const random = seededRandom(2);
  const delta = Float32Array.from({ length: 10_000 }, () => random.normal() ** 3);
  const sizes = { none: 1, fp16: 0.5, int8: 0.2515, 'top-k': 0.02 };
  for (const name of ['none', 'fp16', 'int8', 'top-k'] as const) {
    const compressor = new Compressor(
      name === 'top-k' ? { name, share: 0.01 } : { name },
      seededRandom(3),
    );
    const total = new Float64Array(delta.length);
    const rounds = name === 'top-k' ? 400 : 40;
    for (let r = 0; r < rounds; r++) {
      const bytes = compressor.compress(delta, r);
      expect(bytes.length / (delta.length * 4)).toBeLessThanOrEqual(sizes[name]);
      for (const [i, v] of decompress(name, bytes, delta.length).entries())
        total[i] = (total[i] ?? 0) + v;
    }
    const missing = Math.sqrt(
      mean(Array.from(delta, (v, i) => (v - (total[i] ?? 0) / rounds) ** 2)),
    );
    expect(missing).toBeLessThan(0.35);
  }
  expect(() => decompress('int8', new Uint8Array(7), 100)).toThrow(
    /7 bytes of int8 cannot hold 100 values, which take 104/,
  );
  expect(() => decompress('zip', new Uint8Array(8), 1)).toThrow(/unknown encoding "zip"/);
  expect(() => decompress('top-k', Uint8Array.from([9, 0, 0, 0, 0, 0, 0, 0]), 3)).toThrow(
    /index 9 is beyond 3 values/,
  );
});

test('unknown strategies and parameters are named with what there is; manifests may write numbers as strings', () => {
  expect(() => createStrategy('FedMagic')).toThrow(
    /no strategy "FedMagic"; choose one of FedAvg, FedAvgM/,
  );
  expect(() => createStrategy('FedProx', { nu: 1 })).toThrow(
    /strategy FedProx has no parameter "nu"; it has: mu/,
  );
  expect(() => createStrategy('TrimmedMean', { beta: 0.7 })).toThrow(
    /beta of strategy TrimmedMean must be in \[0, 0.4999\], got 0.7/,
  );
  expect(createStrategy('FedProx', { mu: '0.25' }).local.proximal).toBe(0.25);
});
