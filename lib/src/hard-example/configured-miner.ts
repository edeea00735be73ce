import { readFileSync } from 'node:fs';
import { fromNode, isJsonObject, type Random, ShoalError, seededRandom } from '@shoal/core';
import { UploadBudget } from './budget.ts';
import type { EdgeResult, HardExampleMiner, MinerParameters, Verdict } from './miner.ts';
import { createMiner } from './miners.ts';
import {
  conformalRiskThreshold,
  learnThenTestThreshold,
  type ScoredSample,
} from './risk-control.ts';

/** Parameters every miner understands beside its own. */
const SHARED = ['temperature', 'uploadBudget', 'risk', 'delta', 'calibration'] as const;

/** Reads a text file; replaced in tests. */
export type ReadText = (path: string) => string;

const fromDisk: ReadText = (path) => {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw fromNode(error, `reading calibration ${path}`);
  }
};

function positive(parameters: MinerParameters, key: string): number | undefined {
  const raw = parameters[key];
  if (raw === undefined || raw === '') return undefined;
  const value = Number(raw);
  if (value > 0 && Number.isFinite(value)) return value;
  throw new ShoalError('invalid_argument', `${key} must be a number > 0, got "${raw}"`);
}

/** softmax(z / T) from softmax(z): p^(1/T), normalized. */
function tempered(result: EdgeResult, temperature: number): EdgeResult {
  if (result.kind === 'boxes' || temperature === 1) return result;
  const powers = Array.from(result.probabilities, (p) => p ** (1 / temperature));
  const sum = powers.reduce((a, b) => a + b, 0);
  return { ...result, probabilities: powers.map((p) => (sum > 0 ? p / sum : 0)) };
}

interface CalibrationLine {
  readonly probabilities: readonly number[];
  readonly label: number;
}

/** Lines `{"probabilities": […], "label": 3}` of samples the edge model did not train on. */
function calibrationLines(text: string, path: string): CalibrationLine[] {
  return text
    .split('\n')
    .filter((l) => l.trim() !== '')
    .map((line, i) => {
      let value: unknown;
      try {
        value = JSON.parse(line);
      } catch (error) {
        throw new ShoalError('data_corrupt', `${path} line ${i + 1}: not JSON`, { cause: error });
      }
      const row = isJsonObject(value) ? value['probabilities'] : undefined;
      const label = isJsonObject(value) ? value['label'] : undefined;
      if (
        !Array.isArray(row) ||
        !row.every((p) => typeof p === 'number') ||
        !Number.isInteger(label)
      )
        throw new ShoalError(
          'data_corrupt',
          `${path} line ${i + 1}: expected {"probabilities": [numbers], "label": whole number}`,
        );
      return { probabilities: row as number[], label: Number(label) };
    });
}

/** A threshold that keeps a promise, from samples whose class is known. */
function promisedThreshold(
  miner: HardExampleMiner,
  lines: readonly CalibrationLine[],
  promise: {
    readonly risk: number;
    readonly delta: number | undefined;
    readonly temperature: number;
  },
): number {
  const samples = lines.map(({ probabilities, label }): ScoredSample => {
    const result = tempered({ kind: 'probabilities', probabilities }, promise.temperature);
    const wrong = probabilities.indexOf(Math.max(...probabilities)) !== label;
    return { score: miner.judge(result).score, wrong };
  });
  return promise.delta === undefined
    ? conformalRiskThreshold(samples, promise.risk)
    : learnThenTestThreshold(samples, { alpha: promise.risk, delta: promise.delta });
}

/**
 * A miner as a manifest describes it: by name and its own parameters, and for every miner
 *
 * - `temperature`: probabilities are softened by it first (temperature scaling);
 * - `risk` with `calibration`, a file of lines `{"probabilities", "label"}`: the threshold by which at most this
 *   share of samples is answered at the edge and wrong, on average (conformal risk control), or with
 *   confidence 1 − `delta` (learn then test); refused when the file is too small;
 * - `uploadBudget`: the threshold follows the stream so that this share goes up.
 *
 * @throws ShoalError `invalid_argument` for what is unknown or out of range.
 */
export function configureMiner(
  name: string,
  parameters: MinerParameters = {},
  ports: { readonly random?: Random; readonly readText?: ReadText } = {},
): HardExampleMiner {
  const own = Object.fromEntries(
    Object.entries(parameters).filter(([k]) => !SHARED.some((s) => s === k)),
  );
  const base = createMiner(name, own, ports.random ?? seededRandom(1));
  const temperature = positive(parameters, 'temperature') ?? 1;
  const [risk, delta] = [positive(parameters, 'risk'), positive(parameters, 'delta')];
  const share = positive(parameters, 'uploadBudget');
  if (risk !== undefined && share !== undefined)
    throw new ShoalError(
      'invalid_argument',
      'risk and uploadBudget cannot both be promised: one moves the threshold the other sets',
    );
  let promised: number | undefined;
  if (risk !== undefined) {
    const path = String(parameters['calibration'] ?? '');
    if (path === '')
      throw new ShoalError('invalid_argument', 'risk needs calibration, the path of a file');
    const text = (ports.readText ?? fromDisk)(path);
    promised = promisedThreshold(base, calibrationLines(text, path), { risk, delta, temperature });
  }
  const budget = share === undefined ? undefined : new UploadBudget({ budget: share });
  if (temperature === 1 && promised === undefined && budget === undefined) return base;
  return {
    name: base.name,
    judge(result): Verdict {
      const verdict = base.judge(tempered(result, temperature));
      if (budget) {
        const { threshold } = budget;
        return { score: verdict.score, threshold, hard: budget.admit(verdict.score) };
      }
      if (promised === undefined) return verdict;
      return { score: verdict.score, threshold: promised, hard: verdict.score < promised };
    },
  };
}
