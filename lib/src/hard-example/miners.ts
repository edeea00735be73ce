import { type Random, ShoalError, seededRandom } from '@shoal/core';
import {
  confidences,
  type EdgeResult,
  type HardExampleMiner,
  type MinerParameters,
} from './miner.ts';

type Factory = (
  read: (name: string, fallback: number) => number,
  random: Random,
) => HardExampleMiner;

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
function ibt(read: (name: string, fallback: number) => number): HardExampleMiner {
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

/** Sedna's miners: its names, parameters and meaning, defined for every input. */
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
  const read = (key: string, fallback: number): number => {
    known.add(key);
    const value = Number(parameters[key] ?? fallback);
    if (!(value >= 0 && value <= 1)) {
      throw new ShoalError(
        'invalid_argument',
        `hard example mining ${name}: ${key} must be a number from 0 to 1, got "${parameters[key]}"`,
      );
    }
    return value;
  };
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
