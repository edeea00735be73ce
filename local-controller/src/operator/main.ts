import { messageOf } from '@shoal/core';
import { readSettings } from './config.ts';
import { startLocalController } from './operator.ts';

/** The local controller as a process: settings from the environment, stops on SIGTERM. */
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
  const operator = await startLocalController(config);
  close = async () => await operator.close();
}

try {
  await main();
} catch (error) {
  process.stderr.write(`local-controller: ${messageOf(error)}\n`);
  process.exit(64); // timers and sockets opened before the fault must not keep it alive
}
