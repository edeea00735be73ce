import { type ApiServerOptions, startApiServer } from '@shoal/cluster';
import { createLogger, messageOf, seededRandom, systemClock } from '@shoal/core';
import { exitWithParent } from './exit-with-parent.ts';

/** The embedded API server as a process; its options come as JSON. */
type Settings = Pick<
  ApiServerOptions,
  'dataDir' | 'port' | 'tokens' | 'serviceSubnets' | 'history'
>;

try {
  const settings = JSON.parse(process.env['SHOAL_PROCESS_OPTIONS'] ?? '{}') as Settings;
  const logger = createLogger({ name: 'api-server' }, process.stderr);
  const server = await startApiServer({
    ...settings,
    clock: systemClock,
    random: seededRandom(Date.now()),
    logger,
  });
  exitWithParent(async () => await server.close());
} catch (error) {
  process.stderr.write(`api-server: ${messageOf(error)}\n`);
  process.exit(70);
}
