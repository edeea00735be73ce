import { type ChildProcess, fork } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  certifyRequest,
  createCertificateRequest,
  type KeyPair,
  LEAN_ALLOCATOR,
} from '@shoal/core';
import { edgeAuthority } from '@shoal/global-manager';
import type { Start } from './clients.ts';
import type { Command } from './server.ts';

/**
 * `npm run bench:link`: EdgeLink with hollow nodes, each with the link, store and mutually
 * authenticated TLS connection of a real one. `--nodes 10000` for the full density; writes
 * .cache/bench/link.json.
 */
const { values } = parseArgs({
  options: {
    nodes: { type: 'string', default: '2000' },
    online: { type: 'string', default: '1000' },
    only: { type: 'string', default: '' },
  },
});
const DENSITY = Number(values.nodes);
const ONLINE = Number(values.online);
const root = mkdtempSync(join(tmpdir(), 'shoal-link-'));
const results: Record<string, unknown> = {};

function quantile(times: readonly number[], q: number): number {
  const sorted = times.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}

function show(what: string, value: string, target: string, reference: string): void {
  console.log(
    `${what.padEnd(58)} ${value.padStart(24)}   target ${target.padEnd(20)} ${reference}`,
  );
}

/** A child process that answers messages. */
class Child {
  readonly process: ChildProcess;
  readonly ready: Promise<void>;
  readonly #answers = new Map<number, (value: unknown) => void>();
  #ids = 0;

  constructor(file: string, args: readonly string[] = []) {
    this.process = fork(join(import.meta.dirname, file), args, {
      // As the embedded cluster starts its manager; PLAIN_ALLOCATOR=1 to see what it gives.
      env: { ...process.env, ...(process.env['PLAIN_ALLOCATOR'] ? {} : LEAN_ALLOCATOR) },
      execArgv: [
        '--expose-gc',
        '--max-old-space-size=12000',
        ...(process.env['PROF'] ? ['--cpu-prof', '--cpu-prof-dir=/tmp/prof'] : []),
      ],
    });
    this.ready = new Promise((resolve) => this.#answers.set(0, () => resolve()));
    this.process.on('message', (message: { id: number; value: unknown }) => {
      this.#answers.get(message.id)?.(message.value);
      this.#answers.delete(message.id);
    });
  }

  ask<T>(message: object): Promise<T> {
    const id = ++this.#ids;
    return new Promise((resolve) => {
      this.#answers.set(id, (value) => resolve(value as T));
      this.process.send({ id, ...message });
    });
  }

  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const gone = new Promise((resolve) => this.process.once('exit', resolve));
    this.process.kill(signal);
    await gone;
  }
}

const PORT = 29_100;
const ADDRESS = `127.0.0.1:${PORT}`;
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function startServer(dir: string): Promise<Child> {
  const server = new Child('server.ts', [dir, ADDRESS]);
  await server.ready;
  return server;
}

const command = <T>(server: Child, what: Command): Promise<T> => server.ask<T>({ command: what });

/** Certificates for many nodes; they share one key, which costs nothing that is measured here. */
async function certificates(
  dir: string,
  names: readonly string[],
): Promise<{
  authority: KeyPair;
  privateKey: string;
  nodes: { name: string; certificate: string }[];
}> {
  const authority = await edgeAuthority(dir, Date.now());
  const { request, privateKey } = await createCertificateRequest('bench');
  const nodes: { name: string; certificate: string }[] = [];
  const issue = async (name: string): Promise<void> => {
    const certificate = await certifyRequest(authority, request, {
      commonName: `system:node:${name}`,
      organization: 'system:nodes',
      usages: ['client'],
      nowMs: Date.now(),
      validForMs: 3_600_000,
    });
    nodes.push({ name, certificate });
  };
  for (let i = 0; i < names.length; i += 100) await Promise.all(names.slice(i, i + 100).map(issue));
  return { authority, privateKey, nodes };
}

async function connectAll(
  server: Child,
  dir: string,
  options: { names: readonly string[]; stores: string; perSecond: number; address?: string },
): Promise<Child> {
  const { authority, privateKey, nodes } = await certificates(dir, options.names);
  const clients = new Child('clients.ts');
  await clients.ready;
  const start: Start = {
    address: options.address ?? ADDRESS,
    authority: authority.certificate,
    nodes,
    privateKey,
    dir: options.stores,
    perSecond: options.perSecond,
  };
  await clients.ask({ do: 'start', start });
  await allConnected(server, options.names.length);
  return clients;
}

async function allConnected(server: Child, count: number): Promise<number> {
  const started = performance.now();
  for (;;) {
    const { connected } = await command<{ connected: number }>(server, { do: 'connected' });
    if (connected >= count) return performance.now() - started;
    if (performance.now() - started > 300_000)
      throw new Error(`${connected} of ${count} connected`);
    await sleep(500);
  }
}

const named = (count: number): string[] => Array.from({ length: count }, (_, i) => `node-${i}`);

/** Change → durable acknowledgement with many nodes online; stores are files, every commit is synced. */
async function latency(): Promise<void> {
  const dir = join(root, 'latency');
  const stores = join(dir, 'stores');
  mkdirSync(stores, { recursive: true });
  const server = await startServer(dir);
  const names = named(ONLINE);
  const clients = await connectAll(server, dir, { names, stores, perSecond: 200 });
  await sleep(5_000); // what connecting cost is over
  const figures: Record<string, unknown> = {};
  for (const perSecond of [50, 200]) {
    const { latencies } = await command<{ latencies: number[] }>(server, {
      do: 'trickle',
      nodes: names,
      perSecond,
      seconds: 15,
      bytes: 1_000,
    });
    const at = [0.5, 0.9, 0.99, 1].map((q) => Math.round(quantile(latencies, q) * 10) / 10);
    figures[`${perSecond}PerSecond`] = { p50: at[0], p90: at[1], p99: at[2], max: at[3] };
    show(
      `change → durable ack, ${ONLINE} nodes online, ${perSecond} changes/s`,
      `P50 ${at[0]} P99 ${at[2]} ms`,
      'P99 ≤ 250 ms',
      'KubeEdge P99 4,087 ms (100k nodes); Kubernetes SLO 5 s',
    );
  }
  const storm = await command<{ written: number; all: number; latencies: number[] }>(server, {
    do: 'assign',
    nodes: names,
    objects: 1,
    bytes: 1_000,
    version: 1,
  });
  const p99 = Math.round(quantile(storm.latencies, 0.99));
  figures['storm'] = { allMs: Math.round(storm.all), p99 };
  show(
    `one object changed for all ${ONLINE} at once`,
    `all after ${Math.round(storm.all)} ms`,
    '–',
    '',
  );
  results['changeToAck'] = figures;
  await clients.end();
  await server.end();
}

/** Bytes over the loopback device, both directions, headers included. */
function loopbackBytes(): number {
  const line = readFileSync('/proc/net/dev', 'utf8')
    .split('\n')
    .find((l) => l.trim().startsWith('lo:'));
  return Number(line?.trim().split(/[:\s]+/)[9] ?? Number.NaN);
}

async function density(): Promise<void> {
  const dir = join(root, 'density');
  const server = await startServer(dir);
  const before = await command<{ rssKiB: number; heap: number }>(server, { do: 'figures' });
  const names = named(DENSITY);
  const started = performance.now();
  const clients = await connectAll(server, dir, { names, stores: '', perSecond: 100 });
  const connectMs = performance.now() - started;
  await sleep(5_000);
  const after = await command<{ rssKiB: number; heap: number }>(server, { do: 'figures' });
  const kib = (after.rssKiB - before.rssKiB) / DENSITY;
  show(
    `${DENSITY} hollow nodes held by one manager`,
    `${kib.toFixed(0)} KiB each, ${(after.rssKiB / 1024).toFixed(0)} MiB`,
    '≤ 115 KiB each',
    'idle grpc-js session with mutual TLS: 113 KiB',
  );
  // Nothing else should use the loopback device now.
  await sleep(20_000);
  const bytes = loopbackBytes();
  await sleep(60_000);
  const perNode = ((loopbackBytes() - bytes) * 8) / 60 / DENSITY / 1_000;
  show(
    'idle traffic per node, IP packets, both ways',
    `${perNode.toFixed(3)} kbit/s`,
    '≤ 0.1 kbit/s',
    'KubeEdge 0.25 kbit/s',
  );
  await command(server, { do: 'assign', nodes: names, objects: 3, bytes: 500, version: 1 });
  await server.end('SIGKILL');
  const again = await startServer(dir);
  const killedAt = performance.now();
  await command(again, {
    do: 'assign',
    nodes: names.filter((_, i) => i % 20 === 0),
    objects: 1,
    bytes: 500,
    version: 2,
  });
  for (;;) {
    const { behind } = await command<{ behind: number }>(again, { do: 'lags' });
    if (behind === 0) break;
    if (performance.now() - killedAt > 300_000) throw new Error(`${behind} nodes are still behind`);
    await sleep(1_000);
  }
  const restartMs = performance.now() - killedAt;
  const restarted = await command<{ rssKiB: number }>(again, { do: 'figures' });
  show(
    `manager killed and restarted with ${DENSITY} nodes: all converged`,
    `${(restartMs / 1_000).toFixed(1)} s, ${(restarted.rssKiB / 1024).toFixed(0)} MiB`,
    '≤ 120 s (cap 60 + 60)',
    '',
  );
  results['density'] = {
    nodes: DENSITY,
    kibPerNode: kib,
    managerMiB: after.rssKiB / 1024,
    connectSeconds: connectMs / 1_000,
    idleKbitPerSecond: perNode,
    restartSeconds: restartMs / 1_000,
  };
  await clients.end();
  await again.end();
}

/** A way with a delay, in both directions, that counts what passes. */
function delayed(
  port: number,
  to: number,
  oneWayMs: number,
): { server: Server; down: () => number } {
  let down = 0;
  const server = createServer((client) => {
    const upstream = new Socket().connect(to, '127.0.0.1');
    const carry = (from: Socket, into: Socket, count: boolean): void => {
      from.on('data', (chunk: Buffer) => {
        if (count) down += chunk.length;
        setTimeout(() => into.writable && into.write(chunk), oneWayMs);
      });
      from.on('close', () => setTimeout(() => into.destroy(), oneWayMs));
      from.on('error', () => undefined);
    };
    carry(client, upstream, false);
    carry(upstream, client, true);
  });
  server.listen(port, '127.0.0.1');
  return { server, down: () => down };
}

async function reconnect(): Promise<void> {
  const dir = join(root, 'reconnect');
  const stores = join(dir, 'stores');
  mkdirSync(stores, { recursive: true });
  const server = await startServer(dir);
  const proxy = delayed(PORT + 1, PORT, 50);
  const [objects, changed, bytes] = [1_000, 50, 2_000];
  await command(server, { do: 'assign', nodes: ['slow'], objects, bytes, version: 1 });
  const address = `127.0.0.1:${PORT + 1}`;
  const clients = await connectAll(server, dir, { names: ['slow'], stores, perSecond: 1, address });
  const times: number[] = [];
  const ratios: number[] = [];
  for (let run = 0; run < 25; run++) {
    while ((await command<{ behind: number }>(server, { do: 'lags' })).behind > 0) await sleep(50);
    await clients.ask({ do: 'stop', node: 'slow' });
    await sleep(400);
    const names = Array.from({ length: changed }, (_, i) => `o${(i * 20 + run) % objects}`);
    await command(server, { do: 'change', node: 'slow', names, bytes, version: run + 2 });
    const before = proxy.down();
    const startedAt = performance.now();
    await clients.ask({ do: 'go', node: 'slow' });
    while ((await command<{ behind: number }>(server, { do: 'lags' })).behind > 0) await sleep(5);
    times.push(performance.now() - startedAt);
    ratios.push((proxy.down() - before) / (changed * (bytes + 30)));
  }
  const p99 = Math.round(quantile(times, 0.99));
  const ratio = Math.max(...ratios);
  show(
    'reconnect → converged, 1,000 objects, 5 % changed, 100 ms RTT',
    `P50 ${Math.round(quantile(times, 0.5))} P99 ${p99} ms`,
    'P99 ≤ 2 s',
    'KubeEdge: one object per RTT, 5 s',
  );
  show('bytes down for it, against the changed bodies', `${ratio.toFixed(2)} ×`, '≤ 1.2 ×', '');
  results['reconnect'] = { p50: quantile(times, 0.5), p99, bytesRatio: ratio };
  await clients.end();
  await server.end();
  proxy.server.close();
}

const parts: Record<string, () => Promise<void>> = { latency, reconnect, density };
for (const [name, body] of Object.entries(parts))
  if (values.only === '' || values.only.split(',').includes(name)) await body();
mkdirSync('.cache/bench', { recursive: true });
writeFileSync('.cache/bench/link.json', JSON.stringify(results, null, 2));
rmSync(root, { recursive: true, force: true });
process.exit(0);
