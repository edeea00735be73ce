import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { silentLogger, systemClock } from '@shoal/core';
import {
  edgeAuthority,
  issueManagerCertificate,
} from '../../../global-manager/src/edge-link/authority.ts';
import { BlobStore } from '../../../global-manager/src/edge-link/blobs.ts';
import { CloudStore } from '../../../global-manager/src/edge-link/cloud-store.ts';
import { Feed } from '../../../global-manager/src/edge-link/feed.ts';
import { LinkHub } from '../../../global-manager/src/edge-link/hub.ts';
import { NodeRegistry } from '../../../global-manager/src/edge-link/node-registry.ts';
import { Records } from '../../../global-manager/src/edge-link/records.ts';
import { RelayHub } from '../../../global-manager/src/edge-link/relay-hub.ts';
import { EdgeLinkServer } from '../../../global-manager/src/edge-link/server.ts';
import { Metrics } from '../../../global-manager/src/operator/metrics.ts';
import { SampleStore } from '../../../global-manager/src/samples/sample-store.ts';

/** The global manager’s end of EdgeLink as it runs in production, alone in a process, driven over IPC. */
export type Command =
  | { do: 'assign'; nodes: readonly string[]; objects: number; bytes: number; version: number }
  | { do: 'trickle'; nodes: readonly string[]; perSecond: number; seconds: number; bytes: number }
  | { do: 'change'; node: string; names: readonly string[]; bytes: number; version: number }
  | { do: 'figures' }
  | { do: 'connected' }
  | { do: 'lags' };

const [dir = '', address = ''] = process.argv.slice(2);
mkdirSync(dir, { recursive: true });
const store = new CloudStore(join(dir, 'feed.db'));
const feed = new Feed(store);
const records = new Records(store);
const clock = systemClock;
const logger = silentLogger;
const hub = new LinkHub({
  store,
  feed,
  records,
  clock,
  logger,
  soon: (body) => void setImmediate(body),
});
const authority = await edgeAuthority(dir, clock.now());
const server = new EdgeLinkServer({
  address,
  tls: await issueManagerCertificate(authority, clock.now()),
  authority: authority.certificate,
  hub,
  registry: new NodeRegistry({ store, authority, key: 'bench', clock, logger }),
  relay: new RelayHub({
    services: { resolve: () => Promise.reject(new Error('none')) },
    invite: () => false,
    logger,
  }),
  feed,
  blobs: new BlobStore(join(dir, 'blobs')),
  samples: new SampleStore(join(dir, 'samples.db')),
  metrics: new Metrics(),
  logger,
});

/** Revisions that wait for their acknowledgement, by node: when they were written. */
const waiting = new Map<string, { rev: number; at: number }[]>();
const latencies: number[] = [];
const receive = hub.receive.bind(hub);
hub.receive = (session, frame) => {
  receive(session, frame);
  if (frame.frame.case !== 'ack') return;
  const list = waiting.get(session.peer.node);
  const cursor = Number(frame.frame.value.cursor);
  while (list?.[0] && list[0].rev <= cursor) {
    latencies.push(performance.now() - list[0].at);
    list.shift();
  }
};

function body(version: number, bytes: number): object {
  return { version, pad: 'x'.repeat(bytes) };
}

function put(name: string, nodes: readonly string[], content: object): void {
  const key = { kind: 'Dataset', namespace: 'bench', name, uid: 'u' };
  const at = performance.now();
  feed.assign(key, new Map(nodes.map((node) => [node, content])));
  for (const node of nodes) {
    const list = waiting.get(node) ?? [];
    list.push({ rev: feed.head(node), at });
    waiting.set(node, list);
  }
}

async function drained(): Promise<void> {
  while ([...waiting.values()].some((list) => list.length > 0)) await clock.sleep(5);
}

async function run(command: Command): Promise<unknown> {
  switch (command.do) {
    case 'assign': {
      const started = performance.now();
      for (let i = 0; i < command.objects; i++)
        put(`o${i}`, command.nodes, body(command.version, command.bytes));
      const written = performance.now() - started;
      if (hub.connected > 0) await drained();
      waiting.clear();
      return { written, all: performance.now() - started, latencies: latencies.splice(0) };
    }
    case 'change':
      for (const name of command.names)
        put(name, [command.node], body(command.version, command.bytes));
      waiting.delete(command.node);
      return {};
    case 'trickle': {
      const { nodes, perSecond, seconds, bytes } = command;
      const total = perSecond * seconds;
      const started = performance.now();
      for (let i = 0; i < total; i++) {
        const due = started + (i * 1_000) / perSecond;
        const wait = due - performance.now();
        if (wait > 1) await clock.sleep(wait);
        const node = nodes[(i * 7919) % nodes.length] ?? '';
        put(`hot-${node}`, [node], body(i + command.perSecond, bytes));
      }
      await drained();
      return { latencies: latencies.splice(0) };
    }
    case 'figures': {
      globalThis.gc?.();
      const status = readFileSync('/proc/self/status', 'utf8');
      const rssKiB = Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]);
      return { rssKiB, heap: process.memoryUsage().heapUsed, connected: hub.connected };
    }
    case 'connected':
      return { connected: hub.connected };
    case 'lags':
      return {
        behind: hub.status().filter((l) => l.lag > 0 || l.connectedForMs === undefined).length,
      };
  }
}

await server.listen();
process.on('message', (message: { id: number; command: Command }) => {
  void run(message.command).then((value) => process.send?.({ id: message.id, value }));
});
process.on('disconnect', () => process.exit(0));
process.send?.({ id: 0, value: 'ready' });
process.on('SIGTERM', () => process.exit(0));
