import type { BenchmarkSamples, DataModule } from '@shoal/benchmark';
import { type Drift, digitData, driftPixels, generateDigits } from '@shoal/datasets';
import { concatenate, type Samples, slice } from '@shoal/lib';
import { plain } from '../../shared/digits.ts';

/** The scanner was moved and its lamp is old: digits turn, fade and blur, more so every round. */
function driftOf(round: number, rounds: number): Drift {
  const share = round / rounds;
  return { rotation: 28 * share, fading: 0.35 * share, blur: share > 0.5 ? 1 : 0 };
}

/**
 * A first model's digits, then rounds of digits that drift further and further. Held out: digits as they
 * are at the end, and as many as they were at the beginning.
 */
const driftingDigits: DataModule<{
  source?: string;
  initial?: number;
  rounds?: number;
  each?: number;
  test?: number;
}> = async (
  {
    source = 'generated',
    initial: first = 2_000,
    rounds: parts = 4,
    each: size = 500,
    test: held = 500,
  },
  { seed },
) => {
  const sizes = { train: first + parts * size, test: parts * held + 2 * held };
  const digits = await digitData(source, sizes, seed);
  // Digits to learn from, to judge a candidate by, and to test on are never the same ones.
  const drifted = (samples: Samples, round: number, role: 0 | 1 | 2): BenchmarkSamples =>
    plain(
      source === 'mnist'
        ? driftPixels(samples, driftOf(round, parts), seed + round)
        : generateDigits({
            count: samples.size,
            seed: 100_000 + 1_000 * seed + 10 * round + role,
            drift: driftOf(round, parts),
          }),
    );
  const tasks = Array.from({ length: parts }, (_, r) => ({
    name: `round ${r + 1}`,
    train: drifted(slice(digits.train, first + r * size, first + (r + 1) * size), r + 1, 0),
    test: drifted(slice(digits.test, r * held, (r + 1) * held), r + 1, 1),
  }));
  const asEver = slice(digits.test, parts * held, (parts + 1) * held);
  const atLast = drifted(slice(digits.test, (parts + 1) * held, (parts + 2) * held), parts, 2);
  return {
    initial: plain(slice(digits.train, 0, first)),
    train: plain(slice(digits.train, first, first)),
    test: plain(concatenate([asEver, atLast])),
    tasks,
  };
};

export default driftingDigits;

export { sources } from '../../shared/digits.ts';
