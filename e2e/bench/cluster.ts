import { readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ApiClient, ApiObject } from '@shoal/cluster';
import { ApiServerProcess } from '../api-server-process.ts';
import { applyToRunning } from './apply-to-running.ts';

/**
 * `npm run bench:cluster`: the embedded API server alone: start-up, memory, writes, lists, and how
 * long a change takes to all watchers; then the whole cluster: from applying a job to its worker
 * running. Prints minima, medians and P99; JSON to the file of --json.
 */
const NAMESPACE = '/api/v1/namespaces/default';
const WRITERS = 64;
const WRITES = 10_000;
const WATCHERS = 200;
const CHANGES = 200;
const REPEATS = 3;
const JOBS = 20;

const configMap = (name: string): unknown => ({
  metadata: { name },
  data: { key: 'value', text: 'x'.repeat(200) },
});

function quantile(values: readonly number[], q: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? Number.NaN;
}

function residentMiB(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1024;
}

async function timed(run: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await run();
  return performance.now() - startedAt;
}

/** Runs tasks 0 … count - 1, so many at a time. */
async function together(
  count: number,
  atOnce: number,
  task: (i: number) => Promise<unknown>,
): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < count) await task(next++);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}

/** Creates objects over several connections. @returns Writes per second, and each one's time. */
async function writes(
  clients: readonly ApiClient[],
  prefix: string,
): Promise<{ perSecond: number; milliseconds: number[] }> {
  const milliseconds: number[] = [];
  const ms = await timed(() =>
    together(WRITES, WRITERS, async (i) => {
      const client = clients[i % clients.length] as ApiClient;
      const body = configMap(`${prefix}-${i}`);
      milliseconds.push(await timed(() => client.request('POST', `${NAMESPACE}/configmaps`, body)));
    }),
  );
  return { perSecond: (WRITES / ms) * 1000, milliseconds };
}

/** How long a change takes until the last of all watchers has it. */
async function fanOut(server: ApiServerProcess): Promise<number[]> {
  const path = `${NAMESPACE}/secrets`;
  const clients = Array.from({ length: Math.ceil(WATCHERS / 25) }, () => server.client());
  const [writer] = clients;
  const stop = new AbortController();
  let seen = 0;
  let all: () => void = () => undefined;
  for (let i = 0; i < WATCHERS; i++) {
    const client = clients[i % clients.length];
    const onEvent = (): void => {
      if (++seen === WATCHERS) all();
    };
    void client?.watch(`${path}?watch=true`, onEvent, stop.signal).catch(() => undefined);
  }
  await sleep(2_000);
  const times: number[] = [];
  for (let i = 0; i < CHANGES; i++) {
    seen = 0;
    const everybody = new Promise<void>((resolve) => {
      all = resolve;
    });
    times.push(
      await timed(() =>
        Promise.all([writer?.request('POST', path, configMap(`s-${i}`)), everybody]),
      ),
    );
  }
  stop.abort();
  for (const client of clients) client.close();
  return times;
}

const startUp: number[] = [];
const idle: number[] = [];
for (let i = 0; i < REPEATS; i++) {
  const server = await ApiServerProcess.start();
  // As for anybody but the very first time: sources compiled, certificates made.
  await server.kill('SIGTERM');
  startUp.push(await server.run());
  await sleep(1_000);
  idle.push(residentMiB(server.pid));
  await server.close();
}

const server = await ApiServerProcess.start();
const clients = Array.from({ length: 4 }, () => server.client());
const runs: { perSecond: number; milliseconds: number[] }[] = [];
for (let i = 0; i < REPEATS; i++) runs.push(await writes(clients, `r${i}`));
const [reader] = clients;
const lists: number[] = [];
const pages: number[] = [];
let objects = 0;
for (let i = 0; i < 10; i++) {
  lists.push(
    await timed(async () => {
      const body = await reader?.request('GET', `${NAMESPACE}/configmaps`);
      objects = (body as { items: ApiObject[] }).items.length;
    }),
  );
  pages.push(await timed(async () => reader?.request('GET', `${NAMESPACE}/configmaps?limit=500`)));
}
const changes = await fanOut(server);
const full = residentMiB(server.pid);
for (const client of clients) client.close();
await server.close();
const applied = await applyToRunning(JOBS);

const rows = [
  ['start-up until it answers (ms)', startUp, 1_000],
  ['resident, idle (MiB)', idle, 90],
  [`writes/s, ${WRITERS} at once`, runs.map((r) => r.perSecond), 2_000],
  ['one write (ms)', runs.flatMap((r) => r.milliseconds), undefined],
  [`list of ${objects} objects (ms)`, lists, undefined],
  ['page of 500 (ms)', pages, undefined],
  [`change → all ${WATCHERS} watchers (ms)`, changes, undefined],
  [`resident with ${objects} objects and ${WATCHERS} watchers (MiB)`, [full], undefined],
  [`apply of a job → its worker running, ${JOBS} jobs (ms)`, applied, undefined],
] as const;
const results = rows.map(([what, values, target]) => ({
  what,
  min: quantile(values, 0),
  median: quantile(values, 0.5),
  p99: quantile(values, 0.99),
  max: Math.max(...values),
  ...(target === undefined ? {} : { target }),
}));
for (const r of results) {
  const number = (x: number): string => x.toFixed(1).padStart(9);
  const target = 'target' in r ? `  target ${r.target}` : '';
  console.log(
    `${r.what.padEnd(60)} min${number(r.min)}  median${number(r.median)}  P99${number(r.p99)}${target}`,
  );
}
const at = process.argv.indexOf('--json');
if (at > 0) {
  const machine = { cores: availableParallelism(), node: process.version };
  writeFileSync(process.argv[at + 1] ?? '', JSON.stringify({ machine, results }, undefined, 2));
}
