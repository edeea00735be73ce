import type { BenchmarkSamples, DataModule } from '@shoal/benchmark';
import { digitData, pullDataset } from '@shoal/datasets';
import type { Samples } from '@shoal/lib';

export function plain(samples: Samples): BenchmarkSamples {
  return { ...samples, attributes: {} };
}

/** Handwritten-like digits of the seed, or MNIST's (`source: mnist`, see shoal dataset pull). */
const digits: DataModule<{ source?: string; train?: number; test?: number }> = async (
  { source = 'generated', train = 2_000, test = 500 },
  { seed },
) => {
  const sizes = { train, test };
  const split = await digitData(source, sizes, seed);
  return { train: plain(split.train), test: plain(split.test) };
};

export default digits;

/** Files the real data is read from. */
export async function sources({ source }: { readonly source?: string }): Promise<string[]> {
  return source === 'mnist' ? [(await pullDataset('mnist')).folder] : [];
}
