import { isShoalError, messageOf } from '@shoal/core';
import { Command } from 'commander';
import { addBenchCommands } from './commands/bench-program.ts';
import { downCommand, statusCommand, upCommand } from './commands/cluster.ts';
import { datasetListCommand, datasetPullCommand } from './commands/dataset.ts';
import { addEdgeCommands } from './commands/edge-program.ts';
import { addFleetCommands } from './commands/fleet-program.ts';
import { addKnowledgeCommands } from './commands/knowledge-program.ts';
import { addLabelCommands } from './commands/label-program.ts';
import { addModelCommands } from './commands/model-program.ts';
import {
  applyCommand,
  deleteCommand,
  describeCommand,
  getCommand,
  logsCommand,
} from './commands/objects.ts';
import { runCommand } from './commands/run.ts';

// Whoever reads our output may have read enough: `| head`.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit();
  throw error;
});

const EXAMPLES = `
Start here:
  $ shoal run joint-inference/digits        one example, on a cluster of its own
  $ shoal up --detach                       a cluster that stays
  $ shoal apply -f manifest.yaml            a job on it
  $ shoal get il                            what it is doing, and why not
  $ shoal logs POD -f                       what a worker says
  $ shoal down                              the end

kubectl works too: export KUBECONFIG=.shoal/kubeconfig`;

function addClusterCommands(program: Command): void {
  program
    .command('up')
    .description('start the embedded cluster: one cloud node and some edge nodes')
    .option('--edges <n>', 'edge nodes, 1 to 15', '2')
    .option('--detach', 'return once it is up')
    .action(async (_o, command: Command) => await upCommand(command.optsWithGlobals()));
  program
    .command('down')
    .description('end the cluster of this folder')
    .option('--purge', 'also remove its files')
    .action(async (_o, command: Command) => await downCommand(command.optsWithGlobals()));
  program
    .command('status')
    .description('show the cluster and its nodes')
    .option('--json', 'as JSON')
    .action(async (_o, command: Command) => await statusCommand(command.optsWithGlobals()));
  program
    .command('run')
    .description('run an example and print what it reached; the last line is JSON')
    .argument(
      '<example>',
      'joint-inference/digits, incremental-learning/digits, federated-learning/digits, lifelong-learning/thermal-comfort, lifelong-learning/drifting-digits, or all',
    )
    .option(
      '--data <kind>',
      'generated; mnist for digits, ashrae for thermal comfort (see: shoal dataset pull)',
      'generated',
    )
    .option('--json', 'no table, only the last line')
    .action(
      async (name: string, _o, command: Command) =>
        await runCommand(name, command.optsWithGlobals()),
    );
}

function addObjectCommands(program: Command): void {
  program
    .command('apply')
    .description('create objects, or bring them up to date')
    .requiredOption('-f, --file <file>', 'YAML; - reads standard input')
    .action(
      async (o: { file: string }, command: Command) =>
        await applyCommand(o.file, command.optsWithGlobals()),
    );
  program
    .command('get')
    .description('list objects of a kind')
    .argument('<kind>', 'name, plural or short name: pods, il, ji …')
    .argument('[name]')
    .option('-o, --output <format>', 'yaml or json')
    .option('-A, --all', 'all namespaces')
    .action(
      async (kind: string, name: string | undefined, _o, command: Command) =>
        await getCommand(kind, name, command.optsWithGlobals()),
    );
  program
    .command('describe')
    .description('one object with its events')
    .argument('<kind>')
    .argument('<name>')
    .action(
      async (kind: string, name: string, _o, command: Command) =>
        await describeCommand(kind, name, command.optsWithGlobals()),
    );
  program
    .command('delete')
    .description('delete an object and wait until it is gone')
    .argument('<kind>')
    .argument('<name>')
    .action(
      async (kind: string, name: string, _o, command: Command) =>
        await deleteCommand(kind, name, command.optsWithGlobals()),
    );
  program
    .command('logs')
    .description('what a pod’s container printed')
    .argument('<pod>')
    .option('-c, --container <name>')
    .option('-f, --follow', 'go on as it comes')
    .option('-p, --previous', 'of the run before')
    .option('--tail <lines>')
    .option('--link', 'through the connection of its node to the cloud')
    .action(async (pod: string, o: { link?: boolean }, command: Command) => {
      if (!o.link) return await logsCommand(pod, command.optsWithGlobals());
      await (await import('./commands/fleet.ts')).linkLogsCommand(pod, command.optsWithGlobals());
    });
}

function addDatasetCommands(program: Command): void {
  const dataset = program
    .command('dataset')
    .description('public data sets for examples and benchmarks');
  dataset
    .command('list')
    .description('what there is, and where it is on this machine')
    .action(datasetListCommand);
  dataset
    .command('pull')
    .description('find a data set, or download it and check it')
    .argument('<name>')
    .action(datasetPullCommand);
}

const program = new Command('shoal')
  .description('AI that is trained and served by a cloud and many edge machines together.')
  .option('--folder <path>', 'folder whose cluster is meant', process.cwd())
  .option('-n, --namespace <name>', 'namespace', 'default')
  .addHelpText('after', EXAMPLES)
  .showHelpAfterError('(shoal --help shows all commands)');
addClusterCommands(program);
addObjectCommands(program);
addDatasetCommands(program);
addModelCommands(program);
addKnowledgeCommands(program);
addLabelCommands(program);
addFleetCommands(program);
addEdgeCommands(program);
addBenchCommands(program);

try {
  await program.parseAsync();
} catch (error) {
  process.stderr.write(`shoal: ${messageOf(error)}\n`);
  if (!isShoalError(error) && error instanceof Error && process.env['SHOAL_DEBUG'])
    process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
}
// Sockets that are kept alive must not keep a finished command alive.
setTimeout(() => process.exit(), 1_000).unref();
