import type { Command } from 'commander';
import type { EdgeFlags } from './edge.ts';

const EXAMPLES = `
On the machine itself, whether the cloud is there or not:
  $ shoal edge status                  models that are here and wait, and whether new ones are held
  $ shoal edge release                 let all of them go on
  $ shoal edge release camera-model    or the one of a job
  $ shoal edge hold                    this machine takes no new models until they are released
  $ shoal edge hold --off

In the embedded cluster, say which of its machines is meant:
  $ shoal edge status --node edge-1`;

function sub(parent: Command, name: string, description: string): Command {
  return parent
    .command(name)
    .description(description)
    .option('--lc <url>', 'the local controller; default LC_SERVER, else http://127.0.0.1:9100')
    .option('--node <name>', 'a node of this folder’s embedded cluster')
    .option('--json', 'as JSON');
}

/** `shoal edge …`: what the people beside an edge machine do. */
export function addEdgeCommands(program: Command): void {
  const edge = program
    .command('edge')
    .description('this edge machine: hold and release new models')
    .addHelpText('after', EXAMPLES);
  sub(edge, 'status', 'models that wait for their release').action(async (_o, c: Command) => {
    await (await import('./edge.ts')).edgeStatusCommand(c.optsWithGlobals<EdgeFlags>());
  });
  sub(edge, 'release', 'let models that wait go on')
    .argument('[job]', 'the job whose model is meant; default all')
    .action(async (job: string | undefined, _o, c: Command) => {
      await (await import('./edge.ts')).edgeReleaseCommand(job, c.optsWithGlobals<EdgeFlags>());
    });
  sub(edge, 'hold', 'take no new models until they are released')
    .option('--off', 'take them again')
    .action(async (_o, c: Command) => {
      const flags = c.optsWithGlobals<EdgeFlags & { off?: boolean }>();
      await (await import('./edge.ts')).edgeHoldCommand(flags);
    });
}
