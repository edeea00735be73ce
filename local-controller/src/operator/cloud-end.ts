import { readFileSync } from 'node:fs';
import { join as joinPath } from 'node:path';
import type { Duplex } from 'node:stream';
import { type ByteStream, backoffMs, isShoalError, type LoopPorts, ShoalError } from '@shoal/core';
import { CertificateKeeper } from '../link/certificate-keeper.ts';
import { GrpcTransport } from '../link/grpc.ts';
import {
  hasIdentity,
  join,
  readIdentity,
  type StoredIdentity,
  writeIdentity,
} from '../link/identity.ts';
import { Link } from '../link/link.ts';
import { Relay } from '../link/relay.ts';
import type { EdgeTransport } from '../link/transport.ts';
import type { EdgeDatabase } from '../store/database.ts';
import { openEdgeStore } from '../store/open.ts';
import { operatorApi } from '../worker-api/operator-api.ts';
import type { Config } from './config.ts';
import { NodeMetrics } from './node-metrics.ts';

const VERSION = '0.1.0';

/** What faces the cloud. */
export interface CloudEnd {
  readonly db: EdgeDatabase;
  readonly transport: EdgeTransport;
  readonly link: Link;
  /** A stream to a service of the cloud. @throws ShoalError `unavailable` without a global manager. */
  readonly openRelay: (target: string) => ByteStream;
  readonly metrics: NodeMetrics;
  /** Loops that run until the signal aborts. */
  run(signal: AbortSignal): Promise<void>[];
  close(): Promise<void>;
}

/**
 * Who this node is: what is on the disk, or what a token gives. The cloud may not be there yet, so
 * joining is tried until it answers; a refusal ends it.
 */
async function identityOf(config: Config, ports: LoopPorts): Promise<StoredIdentity> {
  const { SHOAL_LC_TLS_FILE: file, SHOAL_LC_TOKEN_FILE: tokenFile } = config;
  if (hasIdentity(file) || tokenFile === '') return readIdentity(file);
  const token = readFileSync(tokenFile, 'utf8');
  for (let attempt = 0; ; attempt++) {
    try {
      const { identity } = await join(token, config.SHOAL_LC_FLEET_SERVER || undefined);
      writeIdentity(file, identity);
      ports.logger.info('joined the cloud');
      return identity;
    } catch (error) {
      if (!isShoalError(error) || error.code !== 'unavailable') throw error;
      if (attempt % 20 === 0)
        ports.logger.info('cannot join yet, will retry', { reason: error.message });
      const backoff = { baseMs: 200, capMs: 15_000 };
      await ports.clock.sleep(100 + backoffMs(Math.min(attempt, 20) / 4, backoff, ports.random));
    }
  }
}

/** The way to the global manager, with this node’s certificate; undefined for a node that has none. */
async function openDirect(config: Config, ports: LoopPorts): Promise<GrpcTransport | undefined> {
  if (config.GM_ADDRESS === '') return undefined;
  const identity = await identityOf(config, ports);
  const { authority } = identity;
  const keepalive = config.SHOAL_LC_TRANSPORT === 'kubernetes';
  return new GrpcTransport({ authority, tls: identity, address: config.GM_ADDRESS, keepalive });
}

/** The way through an API server; what it needs is loaded only for it. */
async function openKubernetes(
  config: Config,
  { clock }: LoopPorts,
  bulk: GrpcTransport | undefined,
): Promise<EdgeTransport> {
  const { KubeClient } = await import('../link/kubernetes/kube-client.ts');
  const { KubeTransport } = await import('../link/kubernetes/kube-transport.ts');
  const api = new KubeClient(config.SHOAL_LC_KUBECONFIG);
  return new KubeTransport({ api, node: config.NODENAME, clock, ...(bulk ? { bulk } : {}) });
}

/** Opens the store and the way to the cloud; nothing runs yet. */
export async function openCloudEnd(config: Config, ports: LoopPorts): Promise<CloudEnd> {
  const { clock, logger } = ports;
  const direct = await openDirect(config, ports);
  const db = openEdgeStore(joinPath(config.SHOAL_LC_DATA_DIR, 'edge.db'), logger);
  const isKubernetes = config.SHOAL_LC_TRANSPORT === 'kubernetes';
  const transport = isKubernetes || !direct ? await openKubernetes(config, ports, direct) : direct;
  const openRelay = (): void => void relay?.connect();
  const link = new Link(db, transport, ports, { version: VERSION, openRelay });
  const metrics = new NodeMetrics(link, db);
  const podLogDir = config.SHOAL_LC_POD_LOG_DIR;
  const operators = operatorApi({ link, metrics, clock, podLogDir });
  await operators.ready();
  const operatorConnection = (connection: Duplex): void =>
    void operators.server.emit('connection', connection);
  const relay = direct && new Relay({ transport: direct, logger, operatorApi: operatorConnection });
  const file = config.SHOAL_LC_TLS_FILE;
  const keeper = direct && new CertificateKeeper({ ...ports, file, transport: direct, link });
  return {
    db,
    transport,
    link,
    openRelay: (target) => {
      if (relay) return relay.open(target);
      throw new ShoalError('unavailable', 'this node has no connection to a global manager');
    },
    metrics,
    run: (signal) => [link.run(signal), ...(keeper ? [keeper.run(signal)] : [])],
    close: async () => {
      relay?.close();
      await operators.close();
      transport.close();
      db.close();
    },
  };
}
