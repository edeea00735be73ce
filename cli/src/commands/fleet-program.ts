import type { Command } from 'commander';
import type { GlobalOptions } from './context.ts';
import type { FleetFlags } from './fleet.ts';

const EXAMPLES = `
A machine becomes a node:
  $ shoal token create --node camera-7         in the cloud; prints a token that counts once
  $ shoal join TOKEN --run                     on that machine

Looking after the fleet:
  $ shoal node list                            who is there, who is not, whose certificate ends
  $ shoal link status                          what has not arrived yet, both ways
  $ shoal logs POD --link -f                   a worker's log through its node's own connection
  $ shoal node metrics camera-7                the same for Prometheus figures
  $ shoal node figures camera-7                what it counted over the last day, offline hours too
  $ shoal node drain camera-7                  no new pods, and the ones it has go elsewhere
  $ shoal node revoke camera-7                 its certificates are refused from now on`;

/** Adds a command with the flags all of them have. */
function sub(parent: Command, name: string, description: string): Command {
  return parent
    .command(name)
    .description(description)
    .option(
      '--server <host:port>',
      'a fleet service elsewhere; default the one of this folder’s cluster',
    )
    .option('--key <file>', 'its fleet.key')
    .option('--authority <file>', 'PEM of the authority of its certificate')
    .option('--json', 'as JSON');
}

/** `shoal token|join|node|link …`; loaded when wanted: gRPC costs other commands a quarter second. */
export function addFleetCommands(program: Command): void {
  const token = program
    .command('token')
    .description('let machines join')
    .addHelpText('after', EXAMPLES);
  sub(token, 'create', 'a single-use token for one node')
    .requiredOption('--node <name>', 'the name it is for')
    .option('--ttl <time>', 'how long it can be used: 30m, 1h, 2d', '1h')
    .option('--edge-link <host:port>', 'where the node connects afterwards')
    .action(async (_o, c: Command) => {
      (await import('./fleet.ts')).tokenCreateCommand(c.optsWithGlobals());
    });
  program
    .command('join')
    .description('make this machine a node')
    .argument('<token>', 'what "shoal token create" printed; - reads standard input')
    .option('--server <host:port>', 'the fleet service; default the one in the token')
    .option('--edge-link <host:port>', 'the global manager; default the one in the token')
    .option('--data-dir <path>', 'where the node keeps what it must not forget', '/var/lib/shoal')
    .option('--run', 'go on as its local controller')
    .addHelpText('after', EXAMPLES)
    .action(async (text: string, _o, c: Command) => {
      await (await import('./fleet.ts')).joinCommand(text, c.optsWithGlobals());
    });
  addNodeCommands(program);
}

function addNodeCommands(program: Command): void {
  const node = program
    .command('node')
    .description('the machines of the fleet')
    .addHelpText('after', EXAMPLES);
  sub(node, 'list', 'nodes, their links and certificates').action(async (_o, c: Command) => {
    await (await import('./fleet.ts')).nodeListCommand(c.optsWithGlobals<FleetFlags>());
  });
  sub(node, 'revoke', 'refuse a node’s certificates, also in live sessions')
    .argument('<name>')
    .action(async (name: string, _o, c: Command) => {
      await (await import('./fleet.ts')).nodeRevokeCommand(name, c.optsWithGlobals<FleetFlags>());
    });
  node
    .command('drain')
    .description('take a node out of service')
    .argument('<name>')
    .action(async (name: string, _o, c: Command) => {
      await (await import('./fleet.ts')).nodeDrainCommand(name, c.optsWithGlobals<GlobalOptions>());
    });
  node
    .command('uncordon')
    .description('put it back')
    .argument('<name>')
    .action(async (name: string, _o, c: Command) => {
      const { nodeUncordonCommand } = await import('./fleet.ts');
      await nodeUncordonCommand(name, c.optsWithGlobals<GlobalOptions>());
    });
  sub(node, 'metrics', 'Prometheus figures of a node, through its own connection')
    .argument('<name>')
    .action(async (name: string, _o, c: Command) => {
      const { askNode } = await import('./fleet.ts');
      await askNode(name, '/metrics', c.optsWithGlobals<FleetFlags>());
    });
  node
    .command('figures')
    .description('what a node’s workers and datasets counted, over the last day')
    .argument('<name>')
    .option(
      '--manager <url>',
      'a global manager elsewhere; default the one of this folder’s cluster',
    )
    .option('--json', 'as JSON')
    .action(async (name: string, _o, c: Command) => {
      const { nodeFiguresCommand } = await import('./figures.ts');
      await nodeFiguresCommand(name, c.optsWithGlobals<GlobalOptions>());
    });
  const link = program
    .command('link')
    .description('the connections of the fleet')
    .addHelpText('after', EXAMPLES);
  sub(link, 'status', 'what has not arrived yet, both ways').action(async (_o, c: Command) => {
    await (await import('./fleet.ts')).linkStatusCommand(c.optsWithGlobals<FleetFlags>());
  });
}
