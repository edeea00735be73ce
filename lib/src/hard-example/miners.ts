import { readFileSync } from 'node:fs';
import { fromNode, type Random, ShoalError, seededRandom } from '@shoal/core';
import { deferralFromJson, deferralScore } from './deferral.ts';
import {
  confidences,
  type EdgeResult,
  type HardExampleMiner,
  type MinerParameters,
} from './miner.ts';

/** Reads the parameters of one miner. */
interface Reader {
  /** A number in [0, 1]. */
  (name: string, fallback: number): number;
  /** Any finite number. */
  readonly any: (name: string, fallback: number) => number;
  readonly text: (name: string) => string;
}

type Factory = (read: Reader, random: Random) => HardExampleMiner;

function below(
  name: string,
  threshold: number,
  score: (result: EdgeResult) => number,
): HardExampleMiner {
  return {
    name,
    judge: (result) => {
      const value = score(result);
      return { hard: value < threshold, score: value, threshold };
    },
  };
}

function mean(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0) / values.length;
}

/** Nothing found: for a detector there is no confidence at all, so the sample is hard. */
const NOTHING_FOUND = 0;

/**
 * Normalised negentropy of the class probabilities: s = 1 + Σ p·ln p / ln n, with 0·ln 0 = 0.
 * 1 means certain, 0 means uniform. With one class there is nothing to be uncertain of: s = 1.
 * For boxes the mean over the boxes of their binary form is used.
 */
export function certainty(result: EdgeResult): number {
  const one = (p: ArrayLike<number>): number => {
    if (p.length < 2) return 1;
    let sum = 0;
    for (let i = 0; i < p.length; i++) {
      const value = p[i] ?? 0;
      if (value > 0) sum += value * Math.log(value);
    }
    return Math.min(1, Math.max(0, 1 + sum / Math.log(p.length)));
  };
  if (result.kind === 'probabilities') return one(result.probabilities);
  if (result.boxes.length === 0) return NOTHING_FOUND;
  return mean(result.boxes.map((b) => one([b[4] ?? 0, 1 - (b[4] ?? 0)])));
}

/** Share of confident boxes: 1 − |{score ≤ θ_box}|/n; hard when it is ≤ θ_img. */
function ibt(read: Reader): HardExampleMiner {
  const box = read('threshold_box', 0.5);
  const image = read('threshold_img', 0.5);
  return {
    name: 'IBT',
    judge: (result) => {
      const scores = confidences(result);
      const score =
        scores.length === 0
          ? NOTHING_FOUND
          : 1 - scores.filter((s) => s <= box).length / scores.length;
      return { hard: score <= image, score, threshold: image };
    },
  };
}

/** Largest probability less the second largest; of a detector, its least sure box. */
function margin(result: EdgeResult): number {
  if (result.kind === 'boxes')
    return result.boxes.length === 0 ? NOTHING_FOUND : Math.min(...confidences(result));
  let [first, second] = [0, 0];
  for (let k = 0; k < result.probabilities.length; k++) {
    const p = result.probabilities[k] ?? 0;
    if (p > first) [first, second] = [p, first];
    else if (p > second) second = p;
  }
  return Math.min(1, first - second);
}

/**
 * Free energy log Σ exp z (Liu et al. 2020, 2010.03759), brought to [0, 1] by a logistic curve: ½ at
 * `energy_center`, steeper for a small `energy_scale`. Without logits their differences from the
 * likeliest class are all there is, and the score says what the largest probability says.
 */
function energy(result: EdgeResult, center: number, scale: number): number {
  if (result.kind === 'boxes') return certainty(result);
  const z = Array.from(result.logits ?? result.probabilities, (v) =>
    result.logits ? v : Math.log(Math.max(v, 1e-12)),
  );
  const top = Math.max(...z);
  const logSum = top + Math.log(z.reduce((sum, v) => sum + Math.exp(v - top), 0));
  return 1 / (1 + Math.exp(-((result.logits ? logSum : -logSum - top) - center) / scale));
}

/** A deferral model may be in a file: trees are long. */
function readModel(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw fromNode(error, `reading the deferral model ${path}`);
  }
}

function learned(read: Reader): HardExampleMiner {
  const given = read.text('model');
  const model = deferralFromJson(/^\.{0,2}\//.test(given) ? readModel(given) : given);
  return below('LearnedDeferral', read('threshold', 0.5), (result) =>
    result.kind === 'boxes' ? certainty(result) : deferralScore(model, result.probabilities),
  );
}

/** Sedna's miners (its names, parameters and meaning, defined for every input), and ours behind them. */
const FACTORIES: Readonly<Record<string, Factory>> = {
  Threshold: (read) =>
    below('Threshold', read('threshold', 0.5), (result) => {
      const scores = confidences(result);
      return scores.length === 0 ? NOTHING_FOUND : mean(scores);
    }),
  CrossEntropy: (read) => below('CrossEntropy', read('threshold_cross_entropy', 0.5), certainty),
  IBT: (read) => ibt(read),
  Random: (read, random) => below('Random', read('random_ratio', 0.3), () => random.next()),
  CloudOnly: () => ({ name: 'CloudOnly', judge: () => ({ hard: true, score: 0, threshold: 1 }) }),
  EdgeOnly: () => ({ name: 'EdgeOnly', judge: () => ({ hard: false, score: 1, threshold: 0 }) }),
  Margin: (read) => below('Margin', read('threshold_margin', 0.5), margin),
  Entropy: (read) => below('Entropy', read('threshold_entropy', 0.5), certainty),
  Energy: (read) => {
    const [center, scale] = [read.any('energy_center', 5), read.any('energy_scale', 1)];
    if (!(scale > 0))
      throw new ShoalError('invalid_argument', `energy_scale must be > 0, got ${scale}`);
    return below('Energy', read('threshold', 0.5), (r) => energy(r, center, scale));
  },
  LearnedDeferral: (read) => learned(read),
};

/** Names a manifest may give under `hardExampleMining.name`. */
export const MINER_NAMES: readonly string[] = Object.keys(FACTORIES);

/**
 * Makes a miner by name.
 *
 * @throws ShoalError `invalid_argument` for an unknown name, an unknown parameter, or a value that
 *   is not a number in [0, 1].
 */
export function createMiner(
  name: string,
  parameters: MinerParameters = {},
  random: Random = seededRandom(1),
): HardExampleMiner {
  const factory = FACTORIES[name];
  if (!factory)
    throw new ShoalError(
      'invalid_argument',
      `hard example mining "${name}" is not known; known are: ${MINER_NAMES.join(', ')}`,
    );
  const known = new Set<string>();
  const { read } = readerOf(name, parameters, known);
  const miner = factory(read, random);
  const unknown = Object.keys(parameters).find((key) => !known.has(key));
  if (unknown !== undefined) {
    throw new ShoalError(
      'invalid_argument',
      `hard example mining ${name} has no parameter "${unknown}"; it has: ${[...known].join(', ') || 'none'}`,
    );
  }
  return miner;
}

/** Reads parameters and notes which ones there are. */
function readerOf(
  name: string,
  parameters: MinerParameters,
  known: Set<string>,
): { readonly read: Reader } {
  const refuse = (key: string, wanted: string): never => {
    throw new ShoalError(
      'invalid_argument',
      `hard example mining ${name}: ${key} must be ${wanted}, got "${parameters[key] ?? ''}"`,
    );
  };
  const any = (key: string, fallback: number): number => {
    known.add(key);
    const value = Number(parameters[key] ?? fallback);
    return Number.isFinite(value) ? value : refuse(key, 'a number');
  };
  const share = (key: string, fallback: number): number => {
    known.add(key);
    const value = Number(parameters[key] ?? fallback);
    return value >= 0 && value <= 1 ? value : refuse(key, 'a number from 0 to 1');
  };
  const text = (key: string): string => {
    known.add(key);
    const value = parameters[key];
    return value === undefined ? refuse(key, 'given') : String(value);
  };
  return { read: Object.assign(share, { any, text }) };
}
