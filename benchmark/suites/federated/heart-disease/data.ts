import type { BenchmarkSamples, DataModule, DataPart } from '@shoal/benchmark';
import { seededRandom } from '@shoal/core';
import {
  generateHospitals,
  type HeartRow,
  heartRows,
  pullDataset,
  readHeartDisease,
} from '@shoal/datasets';

function samplesOf(rows: readonly HeartRow[]): BenchmarkSamples {
  return {
    inputs: Float32Array.from(rows.flatMap((r) => r.features)),
    labels: BigInt64Array.from(rows, (r) => BigInt(r.label)),
    shape: [rows[0]?.features.length ?? 0],
    size: rows.length,
    attributes: {},
  };
}

/** Centred and scaled by the statistics of a hospital's own training rows, as FLamby does. */
function normalized(train: BenchmarkSamples, test: BenchmarkSamples): BenchmarkSamples[] {
  const width = train.shape[0] ?? 1;
  const statistics = Array.from({ length: width }, (_, c) => {
    const column = Array.from({ length: train.size }, (_v, i) => train.inputs[i * width + c] ?? 0);
    const mean = column.reduce((a, b) => a + b, 0) / train.size;
    const squares = column.reduce((a, v) => a + (v - mean) ** 2, 0);
    return { mean, deviation: Math.max(1e-9, Math.sqrt(squares / (train.size - 1))) };
  });
  return [train, test].map((s) => ({
    ...s,
    inputs: s.inputs.map((v, i) => {
      const { mean = 0, deviation = 1 } = statistics[i % width] ?? {};
      return (v - mean) / deviation;
    }),
  }));
}

function partOf(name: string, rows: readonly HeartRow[], seed: number): DataPart {
  const order = seededRandom(seed).fork(name).permutation(rows.length);
  const cut = Math.round((rows.length * 2) / 3);
  const chosen = (from: number, to: number): BenchmarkSamples =>
    samplesOf(Array.from(order.subarray(from, to), (i) => rows[i]).filter((r) => r !== undefined));
  const [train, test] = normalized(chosen(0, cut), chosen(cut, rows.length));
  if (!train || !test) throw new Error(`${name} has no rows`);
  return { name, train, test };
}

/** Four hospitals, two thirds of each to learn from (FLamby, 2210.04620): real, or generated alike. */
const hospitals: DataModule<{ source?: string }> = async ({ source = 'generated' }, { seed }) => {
  const found =
    source === 'real'
      ? readHeartDisease((await pullDataset('heart-disease')).folder)
      : generateHospitals(seed);
  return { participants: found.map((h) => partOf(h.name, heartRows(h), seed)) };
};

export default hospitals;

/** Files the real data is read from. */
export async function sources({ source }: { readonly source?: string }): Promise<string[]> {
  return source === 'real' ? [(await pullDataset('heart-disease')).folder] : [];
}
