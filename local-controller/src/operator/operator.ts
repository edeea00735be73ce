import { mkdirSync, readFileSync } from 'node:fs';
import { join, normalize } from 'node:path';
import {
  type Clock,
  fromNode,
  type KeyPair,
  type Logger,
  type Random,
  superviseLoop,
} from '@shoal/core';
import { collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import { DatasetMonitor } from '../dataset/monitor.ts';
import { RemoteDatasets } from '../dataset/remote-datasets.ts';
import { StageJobs } from '../jobs/stage-jobs.ts';
import { GrpcTransport } from '../link/grpc.ts';
import { Link } from '../link/link.ts';
import { ModelStore } from '../model/model-store.ts';
import { HardExamples } from '../samples/hard-examples.ts';
import { HardExampleSpool } from '../samples/spool.ts';
import { EdgeDatabase } from '../store/database.ts';
import { serveWorkerApi } from '../worker-api/server.ts';
import type { Config } from './config.ts';
import { WakeUp } from './wake-up.ts';

export interface OperatorPorts {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

export interface Operator {
  close(): Promise<void>;
}

function readTls(file: string): KeyPair & { authority: string } {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as KeyPair & { authority: string };
  } catch (error) {
    throw fromNode(error, `reading ${file}`);
  }
}

function metricsRegistry(link: Link): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  new Gauge({
    name: 'shoal_link_connected',
    help: '1 while connected to the global manager.',
    registers: [registry],
    collect() {
      this.set(link.connected ? 1 : 0);
    },
  });
  return registry;
}

/** Starts the local controller: the one place where its parts are put together. */
export async function startOperator(config: Config, ports: OperatorPorts): Promise<Operator> {
  const { clock, logger } = ports;
  mkdirSync(config.SHOAL_LC_DATA_DIR, { recursive: true });
  const tls = readTls(config.SHOAL_LC_TLS_FILE);
  const db = new EdgeDatabase(join(config.SHOAL_LC_DATA_DIR, 'edge.db'));
  const transport = new GrpcTransport({ ...tls, tls, address: config.GM_ADDRESS });
  const link = new Link(db, transport, ports);
  const hostPath = (path: string): string =>
    join(config.ROOTFS_MOUNT_DIR, normalize(join('/', path)));
  const monitor = new DatasetMonitor({ db, link, logger, hostPath });
  const maxBytes = config.SHOAL_LC_MAX_DATASET_BYTES;
  const remote = new RemoteDatasets({ db, link, clock, logger, hostPath, maxBytes });
  const models = new ModelStore(join(config.SHOAL_LC_DATA_DIR, 'models'), transport);
  const spool = new HardExampleSpool(join(config.SHOAL_LC_DATA_DIR, 'spool.db'));
  const hardExamples = new HardExamples({ db, link, transport, spool, clock, logger });
  const jobPorts = { db, link, monitor, models, hardExamples, clock, logger, hostPath };
  const stageJobs = {
    incrementallearningjob: new StageJobs('IncrementalLearningJob', jobPorts),
    lifelonglearningjob: new StageJobs('LifelongLearningJob', jobPorts),
  };
  const api = await serveWorkerApi({
    host: config.BIND_ADDRESS,
    port: config.BIND_PORT,
    link,
    stageJobs,
    hardExamples,
    models,
    registry: metricsRegistry(link),
    logger,
  });
  const stopping = new AbortController();
  const { signal } = stopping;
  const wakeUp = new WakeUp();
  link.onChange(() => wakeUp.wake());
  const poll = async (): Promise<void> => {
    remote.poll();
    monitor.poll();
    for (const jobs of Object.values(stageJobs)) jobs.poll();
    hardExamples.poll();
    await wakeUp.pause(config.SHOAL_LC_POLL_MS, clock, signal);
  };
  const loops = [
    link.run(signal),
    superviseLoop('poll', poll, ports, { baseMs: 200, capMs: 5_000, signal }),
  ];
  logger.info('local controller started', { node: config.NODENAME });
  return {
    close: async () => {
      stopping.abort();
      await Promise.all(loops);
      await api.close();
      transport.close();
      spool.close();
      db.close();
    },
  };
}
