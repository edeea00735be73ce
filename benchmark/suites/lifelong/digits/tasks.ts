import type { DataModule } from '@shoal/benchmark';
import { DIGIT_MOUNTINGS, digitData, mountedDigits } from '@shoal/datasets';
import { slice } from '@shoal/lib';

/** Digits as scanners mounted in different ways see them, one mounting after another. */
const mountings: DataModule<{
  source?: string;
  tasks?: number;
  train?: number;
  test?: number;
}> = async ({ source = 'generated', tasks = 5, train = 700, test = 60 }, { seed }) => {
  const sizes = { train: tasks * train, test: tasks * test };
  const digits = await digitData(source, sizes, seed);
  return {
    tasks: DIGIT_MOUNTINGS.slice(0, tasks).map((mounting, t) => ({
      name: mounting.name,
      train: mountedDigits(mounting, slice(digits.train, t * train, (t + 1) * train)),
      test: mountedDigits(mounting, slice(digits.test, t * test, (t + 1) * test)),
    })),
  };
};

export default mountings;

export { sources } from '../../shared/digits.ts';
