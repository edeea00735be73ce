import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { AggregationServer, addWeighted, createStrategy, kernelVectors } from '@shoal/lib';
import { flowerRounds } from './flower-rounds.ts';

/**
 * `npm run bench:federated`: aggregation kernels, and the floor of a round without training work.
 * numpy and Flower's own functions run between our runs when SHOAL_PYTHON has them. Writes
 * .cache/bench/federated.json.
 */
interface Times {
  readonly minMs: number;
  readonly medianMs: number;
}

function timesOf(samples: readonly number[]): Times {
  const sorted = samples.toSorted((a, b) => a - b);
  return { minMs: sorted[0] ?? Number.NaN, medianMs: sorted[sorted.length >> 1] ?? Number.NaN };
}

function sample(runs: number, body: () => void): number[] {
  return Array.from({ length: runs }, () => {
    const startedAt = performance.now();
    body();
    return performance.now() - startedAt;
  });
}

function measure(runs: number, body: () => void): Times {
  return timesOf(sample(runs, body));
}

const PYTHON = `
import json, sys, time
import numpy as np
n, d = int(sys.argv[1]), int(sys.argv[2])
X = np.random.rand(n, d).astype(np.float32); w = np.arange(10, 10 + n, dtype=np.float32); w /= w.sum()
def times(f, k):
    s = []
    for _ in range(k):
        t = time.perf_counter(); f(); s.append((time.perf_counter() - t) * 1e3)
    return {"minMs": min(s), "medianMs": sorted(s)[len(s) // 2]}
def axpy():
    acc = np.zeros(d, np.float32)
    for k in range(n): acc += w[k] * X[k]
    return acc
out = {"numpy gemv": times(lambda: w @ X, 7), "numpy axpy": times(axpy, 5)}
try:
    from flwr.server.strategy.aggregate import aggregate, aggregate_median, aggregate_trimmed_avg
    results = [([X[k]], 10 + k) for k in range(n)]
    out["Flower aggregate"] = times(lambda: aggregate(results), 3)
    if n * d <= 100_000_000:
        out["Flower median"] = times(lambda: aggregate_median(results), 1)
        out["Flower trimmed mean"] = times(lambda: aggregate_trimmed_avg(results, 0.2), 1)
except ImportError as e:
    out["note"] = str(e)
print(json.dumps(out))`;

function peers(n: number, d: number): Record<string, Times> {
  const python = process.env['SHOAL_PYTHON'] ?? 'python3';
  const { stdout } = spawnSync(python, ['-c', PYTHON, String(n), String(d)], {
    encoding: 'utf8',
    env: { ...process.env, OMP_NUM_THREADS: '1', OPENBLAS_NUM_THREADS: '1' },
  });
  try {
    return JSON.parse(stdout) as Record<string, Times>;
  } catch {
    return {};
  }
}

const rows: { what: string; times: Times }[] = [];
function show(what: string, times: Times): void {
  rows.push({ what, times });
  console.log(
    `${what.padEnd(46)} ${times.minMs.toFixed(1).padStart(9)} / ${times.medianMs.toFixed(1)} ms (min / median)`,
  );
}

function aggregation(n: number, d: number): void {
  // Where the aggregator has them too: its updates are read into memory of the kernel.
  const [target = new Float32Array(d), ...inputs] = kernelVectors(n + 1, d);
  for (const [k, input] of inputs.entries())
    for (let i = 0; i < d; i++) input[i] = Math.sin(i * 0.37 + k);
  const weights = inputs.map((_, k) => 10 + k);
  const at = `n=${n}, d=${d / 1e6} M`;
  const weightedMean = (): void => addWeighted(target, inputs, weights);
  const before = sample(7, weightedMean);
  const streamed = (): void => {
    for (const [k, input] of inputs.entries()) addWeighted(target, [input], [weights[k] ?? 0]);
  };
  show(`  one after the other, ${at}`, measure(7, streamed));
  const elsewhere = inputs.map((input) => input.slice());
  show(
    `  of arrays elsewhere, ${at}`,
    measure(5, () => addWeighted(target, elsewhere, weights)),
  );
  const updates = inputs.map((delta, k) => ({
    participant: `p${k}`,
    samples: 10 + k,
    metrics: {},
    delta,
  }));
  if (n * d <= 1e8) {
    for (const name of ['Median', 'TrimmedMean', 'Krum']) {
      if (name === 'Krum' && n > 10) continue;
      const { rule } = createStrategy(name);
      if (rule.kind === 'joint')
        show(
          `${name}, ${at}`,
          measure(2, () => void rule.combine(updates, {})),
        );
    }
  }
  const others = Object.entries(peers(n, d)).filter(([, times]) => typeof times === 'object');
  // On both sides of the others, in the same minute: machines change their pace.
  const mean = timesOf([...before, ...sample(7, weightedMean)]);
  show(`weighted mean, ${at}`, mean);
  for (const [name, times] of others) show(`  ${name}, ${at}`, times);
  for (const [name, times] of others.filter(([n]) => /gemv|aggregate/.test(n)))
    console.log(`  weighted mean / ${name} = ${(mean.minMs / times.minMs).toFixed(2)} (minima)`);
}

/** The floor of a round: participants in processes of their own, as Flower's are, that train nothing. */
async function roundFloor(
  participants: number,
  size: number,
  at: { readonly rounds: number; readonly processes: number },
): Promise<void> {
  const { rounds, processes } = at;
  const dir = mkdtempSync(join(tmpdir(), 'shoal-bench-fl-'));
  const samples: number[] = [];
  let before = performance.now();
  const server = new AggregationServer({
    job: 'bench',
    rounds,
    participants,
    dir,
    initial: new Float32Array(size).fill(0.5),
    layout: [{ name: 'w', shape: [size] }],
    onRound: () => {
      const now = performance.now();
      samples.push(now - before);
      before = now;
    },
  });
  const address = await server.start();
  const each = participants / processes;
  const script = join(import.meta.dirname, 'idle-participants.ts');
  const ended = Array.from({ length: processes }, (_, k) => {
    const args = [script, address, size, k * each, each].map(String);
    const child = spawn(process.execPath, args, { stdio: 'inherit' });
    return new Promise((resolve) => child.on('close', resolve));
  });
  const { history } = await server.done;
  await Promise.all(ended);
  await server.close();
  rmSync(dir, { recursive: true, force: true });
  // The first round waits for everyone to join, the last only scores.
  const steady = samples.slice(1, rounds);
  const payload = (size * 4) / 1e6;
  show(`round, ${participants} participants, ${payload} MB`, timesOf(steady));
  const perParticipant = (history[1]?.bytesUp ?? 0) / participants;
  console.log(
    `  ${perParticipant} bytes up each = ${(perParticipant / (size * 4)).toFixed(3)} × the payload; ${processes} processes`,
  );
}

const wanted = process.argv[2] ?? 'all';
if (wanted !== 'rounds')
  for (const [n, d] of [
    [10, 1e6],
    [100, 1e6],
    [10, 1e7],
  ] as const)
    aggregation(n, d);
if (wanted === 'aggregation') process.exit();
/** Flower's rounds of the same size beside ours. */
async function besideFlower(size: number, ours: number, rounds: number): Promise<void> {
  await roundFloor(2, size, { rounds: ours, processes: 2 });
  const theirs = await flowerRounds(size, rounds);
  const payload = (size * 4) / 1e6;
  if (theirs?.length) show(`  Flower, 2 SuperNodes, ${payload} MB`, timesOf(theirs));
  else console.log('  Flower did not run (SHOAL_PYTHON names no Python that has it)');
}

await besideFlower(1, 20, 6);
await besideFlower(2_500_000, 8, 5);
await besideFlower(25_000_000, 5, 4);
await roundFloor(100, 250_000, { rounds: 6, processes: 4 });
const out = join(import.meta.dirname, '../../.cache/bench');
mkdirSync(out, { recursive: true });
writeFileSync(
  join(out, 'federated.json'),
  JSON.stringify({ cores: availableParallelism(), rows }, null, 2),
);
console.log(JSON.stringify({ cores: availableParallelism(), rows }));
