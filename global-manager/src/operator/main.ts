import { createLogger, messageOf, seededRandom, systemClock } from '@shoal/core';
import { ClientNodeApi } from '../kube/client-node.ts';
import { readSettings } from './config.ts';
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
  const operator = await startOperator(config, { api, clock: systemClock, random, logger });
  close = async () => await operator.close();
}

try {
  await main();
} catch (error) {
  process.stderr.write(`global-manager: ${messageOf(error)}\n`);
  process.exit(64); // timers and sockets opened before the fault must not keep it alive
}
