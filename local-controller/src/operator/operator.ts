import { mkdirSync } from 'node:fs';
import { join as joinPath, normalize } from 'node:path';
import {
  type Clock,
  createLogger,
  type Logger,
  type Random,
  seededRandom,
  superviseLoop,
  systemClock,
} from '@shoal/core';
import { DatasetMonitor } from '../dataset/monitor.ts';
import { RemoteDatasets } from '../dataset/remote-datasets.ts';
import { StageJobs } from '../jobs/stage-jobs.ts';
import { ModelStore } from '../model/model-store.ts';
import { HardExamples } from '../samples/hard-examples.ts';
import { HardExampleSpool } from '../samples/spool.ts';
import { serveWorkerApi } from '../worker-api/server.ts';
import { openCloudEnd } from './cloud-end.ts';
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

/** Starts the local controller: the one place where its parts are put together. */
export async function startOperator(config: Config, ports: OperatorPorts): Promise<Operator> {
  const { clock, logger } = ports;
  mkdirSync(config.SHOAL_LC_DATA_DIR, { recursive: true });
  const cloud = await openCloudEnd(config, ports);
  const { db, transport, link, relay, registry } = cloud;
  const hostPath = (path: string): string =>
    joinPath(config.ROOTFS_MOUNT_DIR, normalize(joinPath('/', path)));
  const monitor = new DatasetMonitor({ db, link, logger, hostPath });
  const maxBytes = config.SHOAL_LC_MAX_DATASET_BYTES;
  const remote = new RemoteDatasets({ db, link, clock, logger, hostPath, maxBytes });
  const models = new ModelStore(joinPath(config.SHOAL_LC_DATA_DIR, 'models'), transport);
  const spool = new HardExampleSpool(joinPath(config.SHOAL_LC_DATA_DIR, 'spool.db'));
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
    registry,
    openRelay: (target) => relay.open(target),
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
    ...cloud.run(signal),
    superviseLoop('poll', poll, ports, { baseMs: 200, capMs: 5_000, signal }),
  ];
  logger.info('local controller started', { node: config.NODENAME });
  return {
    close: async () => {
      stopping.abort();
      await Promise.all(loops);
      await api.close();
      spool.close();
      await cloud.close();
    },
  };
}

/** Starts the local controller with the machine’s clock, for those who are not the process itself. */
export async function startLocalController(config: Config): Promise<Operator> {
  const logger = createLogger(
    { name: 'local-controller', level: config.SHOAL_LC_LOG_LEVEL },
    process.stderr,
  ).child({ node: config.NODENAME });
  return await startOperator(config, {
    clock: systemClock,
    random: seededRandom(Date.now()),
    logger,
  });
}
