import { hostname } from 'node:os';
import { createLogger, messageOf, seededRandom, systemClock } from '@shoal/core';
import { ClientNodeApi } from '../kube/client-node.ts';
import { readSettings } from './config.ts';
import { LeaderElection } from './leader.ts';
import { startOperator } from './operator.ts';

/** The global manager as a process: settings from the environment, stops on SIGTERM. */
async function main(): Promise<void> {
  let close = (): Promise<void> => Promise.resolve();
  const stop = (): void => {
    void close().finally(() => process.exit(0));
  };
  // From the first moment: starting may wait for the cloud for a long time.
  process.once('SIGTERM', stop);
  process.once('SIGINT', stop);
  // Under a supervisor with an IPC channel: end when the supervisor does.
  process.once('disconnect', stop);
  const config = readSettings(process.env);
  const logger = createLogger(
    { name: 'global-manager', level: config.SHOAL_GM_LOG_LEVEL },
    process.stderr,
  );
  const api = new ClientNodeApi(config.SHOAL_GM_KUBECONFIG || undefined);
  const random = seededRandom(Date.now());
  const clock = systemClock;
  const stopping = new AbortController();
  const { signal } = stopping;
  const lease = config.SHOAL_GM_LEASE;
  const identity = config.SHOAL_GM_IDENTITY || hostname();
  const election = lease ? new LeaderElection({ api, clock, logger, lease, identity }) : undefined;
  close = async () => await Promise.resolve(stopping.abort());
  await election?.acquire(signal);
  if (signal.aborted) return;
  // From now on the lease is kept, also while starting takes long.
  const held = election?.hold(signal);
  void held?.then((end) => {
    if (end !== 'lost') return;
    logger.error('the lease is lost: another manager leads from now on', { identity });
    process.exit(1);
  });
  const operator = await startOperator(config, { api, clock, random, logger });
  close = async () => {
    stopping.abort();
    await operator.close();
    await election?.release();
  };
}

try {
  await main();
} catch (error) {
  process.stderr.write(`global-manager: ${messageOf(error)}\n`);
  process.exit(64); // timers and sockets opened before the fault must not keep it alive
}
