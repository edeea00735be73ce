import { join } from 'node:path';
import { type KeyPair, seededRandom, silentLogger, systemClock } from '@shoal/core';
import { GrpcTransport } from '../../../local-controller/src/link/grpc.ts';
import { Link } from '../../../local-controller/src/link/link.ts';
import { EdgeDatabase } from '../../../local-controller/src/store/database.ts';

/** Hollow nodes: the local controller’s link and store as they run in production, many in a process. */
export interface Start {
  readonly address: string;
  readonly authority: string;
  readonly nodes: readonly { readonly name: string; readonly certificate: string }[];
  readonly privateKey: string;
  /** Folder of the stores; empty: in memory. */
  readonly dir: string;
  /** Nodes that begin to connect each second. */
  readonly perSecond: number;
}

interface Node {
  readonly link: Link;
  readonly db: EdgeDatabase;
  stop: AbortController;
}

const nodes = new Map<string, Node>();

async function start(options: Start): Promise<void> {
  const { address, authority, privateKey, dir, perSecond } = options;
  const started = performance.now();
  for (const [i, { name, certificate }] of options.nodes.entries()) {
    const wait = started + (i * 1_000) / perSecond - performance.now();
    if (wait > 1) await systemClock.sleep(wait);
    const tls: KeyPair = { certificate, privateKey };
    const db = new EdgeDatabase(dir === '' ? ':memory:' : join(dir, `${name}.db`));
    const transport = new GrpcTransport({ address, authority, tls });
    const ports = { clock: systemClock, random: seededRandom(i), logger: silentLogger };
    const link = new Link(db, transport, ports);
    const stop = new AbortController();
    void link.run(stop.signal);
    nodes.set(name, { link, db, stop });
  }
}

function run(message: { id: number; do: string; node?: string; start?: Start }): unknown {
  const node = nodes.get(message.node ?? '');
  switch (message.do) {
    case 'start':
      if (message.start) void start(message.start);
      return {};
    case 'connected':
      return { connected: [...nodes.values()].filter((n) => n.link.connected).length };
    case 'stop':
      node?.stop.abort();
      return {};
    case 'go':
      if (node) {
        node.stop = new AbortController();
        void node.link.run(node.stop.signal);
      }
      return {};
    case 'cursor':
      return { cursor: node?.db.syncState().cursor, connected: node?.link.connected };
    default:
      return {};
  }
}

process.on('message', (message: { id: number; do: string }) => {
  process.send?.({ id: message.id, value: run(message) });
});
process.on('disconnect', () => process.exit(0));
process.send?.({ id: 0, value: 'ready' });
process.on('SIGTERM', () => process.exit(0));
