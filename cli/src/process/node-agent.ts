import { type AgentOptions, ApiClient, NodeAgent } from '@shoal/cluster';
import { createLogger, type KeyPair, messageOf, seededRandom, systemClock } from '@shoal/core';
import { exitWithParent } from './exit-with-parent.ts';

/** A node agent as a process; its options come as JSON. */
type Settings = Pick<
  AgentOptions,
  'identity' | 'dataDir' | 'podSubnet' | 'images' | 'authority'
> & { readonly server: string; readonly tls: KeyPair };

try {
  const settings = JSON.parse(process.env['SHOAL_PROCESS_OPTIONS'] ?? '{}') as Settings;
  const { tls, authority, server } = settings;
  delete process.env['SHOAL_PROCESS_OPTIONS'];
  const logger = createLogger({ name: 'node-agent' }, process.stderr).child({
    node: settings.identity.name,
  });
  const client = new ApiClient({
    server,
    authority,
    certificate: tls.certificate,
    privateKey: tls.privateKey,
  });
  const agent = new NodeAgent({
    ...settings,
    client,
    clock: systemClock,
    random: seededRandom(Date.now()),
    logger,
  });
  await agent.start();
  exitWithParent(async () => await agent.stop());
} catch (error) {
  process.stderr.write(`node-agent: ${messageOf(error)}\n`);
  process.exit(70);
}
