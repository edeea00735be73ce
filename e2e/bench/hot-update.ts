import { fork } from 'node:child_process';
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { seededRandom } from '@shoal/core';
import { OnnxEstimator } from '@shoal/lib';
import { conv2d, dense, flatten, maxPool2d, relu, sequential } from '@shoal/training';

/**
 * `npm run bench:hot-update`: models are swapped while 200 requests a second are answered. The serving
 * worker, and the client that sends at fixed times whatever the answers do, are processes of their own.
 * Latency counts from when a request was due.
 */
const RATE = 200;
const SECONDS = 30;
const SWAPS = 8;
const PORT = 18_099;

function model(seed: number): Uint8Array {
  const layers = [
    conv2d(16, 3),
    relu(),
    maxPool2d(2),
    conv2d(32, 3),
    relu(),
    maxPool2d(2),
    flatten(),
    dense(64),
    relu(),
    dense(10),
  ];
  return sequential({ input: [1, 28, 28], layers, random: seededRandom(seed) });
}

interface Sent {
  /** Milliseconds since the first was due. */
  readonly due: number;
  readonly ms: number;
  readonly ok: boolean;
  readonly label: number;
}

function quantile(values: readonly number[], q: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? 0;
}

const dir = mkdtempSync(join(tmpdir(), 'shoal-hot-'));
const hot = join(dir, 'hot');
mkdirSync(hot);
writeFileSync(join(dir, 'first.onnx'), model(0));

/** Points at a new model as the local controller does. */
function install(n: number): void {
  writeFileSync(join(hot, `model-${n}.onnx`), model(n));
  const config = {
    model_config: { model_path: `/model-hot-update/model-${n}.onnx`, model_update_time: String(n) },
  };
  writeFileSync(join(hot, 'model_config.json.tmp'), JSON.stringify(config));
  renameSync(join(hot, 'model_config.json.tmp'), join(hot, 'model_config.json'));
}

const worker = fork(join(import.meta.dirname, '../../workers/src/main.ts'), ['infer'], {
  stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  env: {
    ...process.env,
    MODEL_URL: join(dir, 'first.onnx'),
    MODEL_HOT_UPDATE: 'true',
    MODEL_HOT_UPDATE_CONFIG: join(hot, 'model_config.json'),
    MODEL_POLL_PERIOD_SECONDS: '1',
    INFERENCE_PORT: String(PORT),
    POD_IP: '127.0.0.1',
    HEM_NAME: 'EdgeOnly',
  },
});
const url = `http://127.0.0.1:${PORT}`;

async function swapsDone(): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(/^shoal_model_swaps (\d+)/m.exec(text)?.[1] ?? 0);
}

async function untilUp(): Promise<void> {
  for (let i = 0; i < 200; i++) {
    const up = await fetch(`${url}/healthz`).then(
      (r) => r.ok,
      () => false,
    );
    if (up) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error('the worker did not start');
}

try {
  await untilUp();
  const random = seededRandom(7);
  const sample = Array.from({ length: 784 }, () => random.next());
  const client = fork(join(import.meta.dirname, 'hot-update-client.ts'));
  const result = new Promise<Sent[]>((resolve, reject) => {
    client.once('message', resolve);
    client.once('error', reject);
  });
  const startedAt = Date.now() + 1_000;
  client.send({ url: `${url}/predict`, rate: RATE, seconds: SECONDS, startedAt, sample });
  const swapped: number[] = [];
  for (let n = 1; n <= SWAPS; n++) {
    const at = startedAt + 5_000 + ((SECONDS - 8) * 1000 * (n - 1)) / SWAPS;
    await new Promise((resolve) => setTimeout(resolve, at - Date.now()));
    install(n);
    while ((await swapsDone()) < n) await new Promise((resolve) => setTimeout(resolve, 20));
    swapped.push(Date.now() - startedAt);
  }
  const sent = await result;
  client.disconnect();
  const failures = sent.filter((s) => !s.ok).length;
  // The model is loaded before it is swapped in: what was due shortly before and after.
  const during = sent.filter((s) => swapped.some((t) => s.due > t - 400 && s.due < t + 200));
  const normal = sent.filter((s) => s.due > 1_000 && !during.includes(s));
  const figures = (of: readonly Sent[]) => {
    const ms = of.map((s) => s.ms);
    return {
      requests: of.length,
      median: quantile(ms, 0.5),
      p99: quantile(ms, 0.99),
      max: Math.max(...ms),
    };
  };
  const [usual, swapping] = [figures(normal), figures(during)];

  // Every answer is one of the models that were installed, and in their order.
  const labels: number[] = [];
  for (let n = 0; n <= SWAPS; n++) {
    const estimator = new OnnxEstimator({ model: model(n), threads: 1 });
    const { probabilities } = await estimator.predict(Float32Array.from(sample), 1);
    labels.push(probabilities.indexOf(Math.max(...probabilities)));
    await estimator.close();
  }
  const strange = sent.filter((s) => s.ok && !labels.includes(s.label)).length;
  const ratio = swapping.p99 / usual.p99;
  const print = (name: string, f: typeof usual): void =>
    console.log(
      `${name}: ${f.requests} requests, median ${f.median.toFixed(2)} ms, P99 ${f.p99.toFixed(2)} ms, worst ${f.max.toFixed(2)} ms`,
    );
  console.log(`${RATE} requests/s for ${SECONDS} s, ${swapped.length} models swapped in`);
  print('usually', usual);
  print('around a swap', swapping);
  console.log(
    `failed: ${failures}; answers of no installed model: ${strange}; P99 around a swap: ${ratio.toFixed(2)} × the usual`,
  );
  console.log(
    JSON.stringify({
      rate: RATE,
      swaps: swapped.length,
      failures,
      strange,
      usual,
      swapping,
      ratio,
    }),
  );
  if (failures > 0 || strange > 0) process.exitCode = 1;
} finally {
  worker.kill('SIGTERM');
  rmSync(dir, { recursive: true, force: true });
}
