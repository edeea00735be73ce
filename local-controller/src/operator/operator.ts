import { chmodSync, mkdirSync } from 'node:fs';
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
import { FigureLog } from '../figures/figure-log.ts';
import type { JobPorts } from '../jobs/ports.ts';
import { StageJobs } from '../jobs/stage-jobs.ts';
import { ModelStore } from '../model/model-store.ts';
import { ServiceModels } from '../model/service-models.ts';
import { HardExamples } from '../samples/hard-examples.ts';
import { HardExampleSpool } from '../samples/spool.ts';
import { SampleIntake } from '../sources/intake.ts';
import { loadPlugins } from '../sources/plugins.ts';
import { DatasetSources, type SourcePorts } from '../sources/sources.ts';
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

/** Who pushes samples into the datasets of this node; nothing runs yet. */
async function openSources(
  config: Config,
  ports: Omit<SourcePorts, 'intake' | 'plugins'>,
): Promise<DatasetSources> {
  const plugins = await loadPlugins(config.SHOAL_LC_SOURCE_PLUGINS);
  const intake = new SampleIntake(joinPath(config.SHOAL_LC_DATA_DIR, 'sources.db'));
  return new DatasetSources({ ...ports, intake, plugins });
}

/** The node’s own folder: certificates and passwords lie there. */
function openFolder(path: string): void {
  mkdirSync(path, { recursive: true });
  chmodSync(path, 0o700);
}

/** Jobs with stages, by the lowercase kind workers send. */
function openJobs(ports: JobPorts): Record<string, StageJobs> {
  return {
    incrementallearningjob: new StageJobs('IncrementalLearningJob', ports),
    lifelonglearningjob: new StageJobs('LifelongLearningJob', ports),
  };
}

/** Starts the local controller: the one place where its parts are put together. */
export async function startOperator(config: Config, ports: OperatorPorts): Promise<Operator> {
  const { clock, logger } = ports;
  openFolder(config.SHOAL_LC_DATA_DIR);
  const cloud = await openCloudEnd(config, ports);
  const { db, transport, link, openRelay, metrics } = cloud;
  const hostPath = (path: string): string =>
    joinPath(config.ROOTFS_MOUNT_DIR, normalize(joinPath('/', path)));
  const sources = await openSources(config, { db, clock, logger, hostPath });
  const monitor = new DatasetMonitor({ db, link, sources, logger, hostPath });
  const maxBytes = config.SHOAL_LC_MAX_DATASET_BYTES;
  const remote = new RemoteDatasets({ db, link, clock, logger, hostPath, maxBytes });
  const models = new ModelStore(joinPath(config.SHOAL_LC_DATA_DIR, 'models'), transport);
  const serviceModels = new ServiceModels({ db, models, logger });
  const periodMs = config.SHOAL_LC_FIGURES_SECONDS * 1_000;
  const figures = new FigureLog({ db, link, clock, logger, periodMs });
  const spool = new HardExampleSpool(joinPath(config.SHOAL_LC_DATA_DIR, 'spool.db'));
  const hardExamples = new HardExamples({ db, link, transport, spool, clock, logger });
  const stageJobs = openJobs({ db, link, monitor, models, hardExamples, clock, logger, hostPath });
  const api = await serveWorkerApi({
    host: config.BIND_ADDRESS,
    port: config.BIND_PORT,
    link,
    stageJobs,
    hardExamples,
    sources,
    models,
    metrics,
    openRelay,
    logger,
  });
  const stopping = new AbortController();
  const { signal } = stopping;
  const wakeUp = new WakeUp();
  link.onChange(() => wakeUp.wake());
  const poll = async (): Promise<void> => {
    remote.poll();
    sources.poll();
    monitor.poll();
    serviceModels.poll();
    for (const jobs of Object.values(stageJobs)) jobs.poll();
    hardExamples.poll();
    figures.poll();
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
      await sources.close();
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
