import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A classifier that needs nothing but this file: the nearest mean of a class. */
const CENTROIDS = `
export default function centroids({ noise = 0, sleep = 0, busy = 0, fail = 'no' }: { noise?: number; sleep?: number; busy?: number; fail?: string }, { seed }: { seed: number }) {
  const means = new Map<number, { sum: number[]; count: number }>();
  return {
    load: async () => {},
    save: async () => {},
    close: async () => {},
    async train({ inputs, labels, size }: { inputs: Float32Array; labels: BigInt64Array; size: number }) {
      if (fail === 'crash') throw new Error('the classifier has fallen over');
      if (fail === 'exit') process.exit(7);
      if (fail === 'hang') for (;;) await new Promise((r) => setTimeout(r, 1000));
      for (const end = performance.now() + busy; performance.now() < end; );
      if (sleep > 0) await new Promise((r) => setTimeout(r, sleep));
      const width = inputs.length / size;
      for (let i = 0; i < size; i++) {
        const k = Number(labels[i]);
        const mean = means.get(k) ?? { sum: Array.from({ length: width }, () => 0), count: 0 };
        for (let j = 0; j < width; j++) mean.sum[j] = (mean.sum[j] ?? 0) + (inputs[i * width + j] ?? 0) + noise * Math.sin(seed * 97 + i + j);
        mean.count++;
        means.set(k, mean);
      }
      return {};
    },
    async evaluate() {
      return {};
    },
    async predict(inputs: Float32Array, size: number) {
      const width = inputs.length / size;
      const classes = Math.max(...means.keys()) + 1;
      const probabilities = new Float32Array(size * classes);
      for (let i = 0; i < size; i++) {
        let [best, nearest] = [0, Infinity];
        for (const [k, { sum, count }] of means) {
          let d = 0;
          for (let j = 0; j < width; j++) d += ((inputs[i * width + j] ?? 0) - (sum[j] ?? 0) / count) ** 2;
          if (d < nearest) [best, nearest] = [k, d];
        }
        probabilities[i * classes + best] = 1;
      }
      return { probabilities, classes, size };
    },
  };
}
`;

/** The same samples as the CSV files, made without reading any. */
const DATA = `
export default function data() {
  const part = (from: number, to: number) => {
    const size = to - from;
    const inputs = new Float32Array(size * 2);
    const labels = new BigInt64Array(size);
    for (let n = 0; n < size; n++) {
      const i = from + n;
      const k = i % 3;
      inputs.set([k + Math.sin(i * 12.9) * 0.8, k * 2 + Math.cos(i * 7.3) * 1.2], n * 2);
      labels[n] = BigInt(k);
    }
    return { inputs, labels, shape: [2], size, attributes: {} };
  };
  return { train: part(0, 60), test: part(60, 90) };
}
`;

export interface TrivialJobOptions {
  /** Samples from a module instead of files: nothing has to be loaded to read them. */
  readonly withoutFiles?: boolean;
  readonly seeds?: readonly number[];
  /** Text of `values` lists, by hyper-parameter. */
  readonly hyperparameters?: Readonly<Record<string, string>>;
  /** More algorithms: file name → text. */
  readonly more?: Readonly<Record<string, string>>;
  readonly timeLimitSeconds?: number;
}

/** An algorithm that fills its slot with a file. */
export function algorithmText(hyperparameters: string, url = './centroids.ts'): string {
  return `algorithm:
  paradigm_type: singletasklearning
  modules:
    - { type: basemodel, name: centroids, url: ${url}, hyperparameters: ${hyperparameters} }
`;
}

/** A job whose cases take no time, in a folder of its own. */
export function trivialJob(options: TrivialJobOptions = {}): { folder: string; job: string } {
  const {
    seeds = [1, 2],
    hyperparameters = {},
    more = {},
    timeLimitSeconds = 60,
    withoutFiles,
  } = options;
  const folder = mkdtempSync(join(tmpdir(), 'shoal-bench-'));
  const put = (name: string, text: string): void => {
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, name), text);
  };
  const rows = Array.from({ length: 90 }, (_, i) => {
    const k = i % 3;
    return `${k + Math.sin(i * 12.9) * 0.8},${k * 2 + Math.cos(i * 7.3) * 1.2},${k}`;
  });
  put('train.csv', `a,b,label\n${rows.slice(0, 60).join('\n')}\n`);
  put('test.csv', `a,b,label\n${rows.slice(60).join('\n')}\n`);
  put('centroids.ts', CENTROIDS);
  put('data.ts', DATA);
  const swept = Object.entries(hyperparameters).map(([k, v]) => `${k}: { values: ${v} }`);
  put('swept.yaml', algorithmText(`{ ${swept.join(', ')} }`));
  for (const [name, text] of Object.entries(more)) put(name, text);
  const algorithms = ['swept.yaml', ...Object.keys(more)].map(
    (f) => `{ name: ${f.replace('.yaml', '')}, url: ./${f} }`,
  );
  put(
    'testenv.yaml',
    `testenv:\n  dataset: ${withoutFiles ? '{ url: ./data.ts }' : '{ train_data: ./train.csv, test_data: ./test.csv }'}\n  metrics: [accuracy, f1_macro, auc, wall_time]\n`,
  );
  put(
    'benchmarkingjob.yaml',
    `benchmarkingjob:
  name: trivial
  testenv: ./testenv.yaml
  seeds: [${seeds.join(', ')}]
  time_limit_seconds: ${timeLimitSeconds}
  test_object: { type: algorithms, algorithms: [${algorithms.join(', ')}] }
  rank: { sort_by: [accuracy] }
`,
  );
  return { folder, job: join(folder, 'benchmarkingjob.yaml') };
}
