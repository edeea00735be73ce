import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf, seededRandom } from '@shoal/core';
import { aggregateRound, createStrategy } from '@shoal/lib';
import type { Outcome } from './outcome.ts';

const INSTALL_MS = 300_000;
const SIZE = 2_000;
const PARTICIPANTS = 7;
const ROUNDS = 4;
/** Largest difference, of models of size 1 that are kept in float32. */
const TOLERANCE = 2e-6;

/** Parameters by our names. τ so small that where v starts (τ² as in the paper, 0 in Flower) changes nothing. */
const STRATEGIES: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  FedAvg: {},
  FedAvgM: { learningRate: 0.5, momentum: 0.9 },
  FedAdagrad: { learningRate: 0.1, tau: 1e-9, beta1: 0 },
  FedAdam: { learningRate: 0.1, tau: 1e-9, beta1: 0.9, beta2: 0.99 },
  FedYogi: { learningRate: 0.01, tau: 1e-9, beta1: 0.9, beta2: 0.99 },
  Median: {},
  TrimmedMean: { beta: 0.2 },
  Krum: { malicious: 2 },
};

interface Update {
  readonly delta: readonly number[];
  readonly samples: number;
}

function works(python: string): boolean {
  return spawnSync(python, ['-c', 'import flwr, numpy'], { timeout: 60_000 }).status === 0;
}

/** A Python that has Flower: `SHOAL_PYTHON`, the machine's, or a virtual environment in the project's cache. */
function findFlower(): string | undefined {
  const cache = join(import.meta.dirname, '../../.cache/flower');
  const cached = join(cache, 'bin/python');
  const found = [process.env['SHOAL_PYTHON'], 'python3', cached].find(
    (p) => p !== undefined && (p === 'python3' || existsSync(p)) && works(p),
  );
  if (found !== undefined || process.env['SHOAL_NO_INSTALL'] !== undefined) return found;
  if (spawnSync('python3', ['-m', 'venv', cache], { timeout: 60_000 }).status !== 0)
    return undefined;
  const install = ['-m', 'pip', 'install', '-q', 'flwr', 'numpy'];
  spawnSync(cached, install, { timeout: INSTALL_MS, stdio: 'ignore' });
  return works(cached) ? cached : undefined;
}

/** Changes of all participants in all rounds, with a few coordinates that somebody exaggerates. */
function changes(): { model: number[]; rounds: Update[][] } {
  const random = seededRandom(5);
  const around = (spread: number): number[] =>
    Array.from({ length: SIZE }, () => Math.fround(spread * random.normal()));
  const rounds = Array.from({ length: ROUNDS }, () =>
    Array.from({ length: PARTICIPANTS }, (_, k) => ({
      delta: around(k === 3 ? 0.5 : 0.1),
      samples: 10 + 7 * k,
    })),
  );
  return { model: around(1), rounds };
}

/** What the step of Flower's FedAdam is of the paper's: it adds Adam's correction, which the paper has not. */
function correction(name: string, round: number): number {
  if (name !== 'FedAdam') return 1;
  const { beta1 = 0, beta2 = 0 } = STRATEGIES['FedAdam'] ?? {};
  return Math.sqrt(1 - beta2 ** (round + 1)) / (1 - beta1 ** (round + 1));
}

/** The largest difference between the steps of our models and Flower's. */
function difference(
  name: string,
  given: ReturnType<typeof changes>,
  theirs: readonly (readonly number[])[],
): number {
  const strategy = createStrategy(name, STRATEGIES[name] ?? {});
  const model = Float32Array.from(given.model);
  const state = {};
  let worst = 0;
  for (const [t, updates] of given.rounds.entries()) {
    const before = model.slice();
    aggregateRound(strategy, model, {
      updates: updates.map(({ delta, samples }, k) => ({
        participant: `p${k}`,
        samples,
        metrics: {},
        delta: Float32Array.from(delta),
      })),
      state,
      round: t + 1,
    });
    const previous = theirs[t - 1] ?? given.model;
    for (const [i, value] of (theirs[t] ?? []).entries()) {
      const step = (value - (previous[i] ?? 0)) / correction(name, t + 1);
      worst = Math.max(worst, Math.abs((model[i] ?? 0) - (before[i] ?? 0) - step));
    }
  }
  return worst;
}

/** Our strategies on the same changes as Flower's own classes, where Flower follows the papers. */
export function flowerOracle(): Outcome[] {
  const name = 'strategies agree with Flower’s';
  const python = findFlower();
  if (python === undefined)
    return [
      {
        name,
        result: 'skipped',
        detail: 'Flower is not here and cannot be installed (SHOAL_PYTHON)',
      },
    ];
  const given = changes();
  const script = join(import.meta.dirname, 'flower_strategies.py');
  const { status, stdout, stderr } = spawnSync(python, [script], {
    input: JSON.stringify({ ...given, strategies: STRATEGIES }),
    encoding: 'utf8',
    timeout: 120_000,
    maxBuffer: 64 * 1024 * 1024,
  });
  if (status !== 0) return [{ name, result: 'failed', detail: stderr.slice(-1_000) }];
  try {
    const models = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as Record<string, number[][]>;
    return Object.keys(STRATEGIES).map((strategy) => {
      const worst = difference(strategy, given, models[strategy] ?? []);
      return {
        name: `${strategy} moves the model as Flower’s class does, ${ROUNDS} rounds`,
        result: worst < TOLERANCE ? 'passed' : 'failed',
        detail: `largest difference ${worst.toExponential(1)}`,
      };
    });
  } catch (error) {
    return [{ name, result: 'failed', detail: messageOf(error) }];
  }
}
