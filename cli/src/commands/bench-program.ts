import type { Command } from 'commander';

const HELP = `
A job compares algorithms in a test environment, in Ianvs's words:
  benchmarkingjob.yaml   what is compared, with which seeds, sorted by what
  testenv.yaml           data, metrics, participants, network
  <algorithm>.yaml       a paradigm, the modules in its slots, their hyper-parameters
Any value can be swept: learning_rate: {values: [0.1, 0.01]}.

Start here:
  $ shoal bench list                              suites that come with Shoal
  $ shoal bench run federated/digits --small      a small run of one, with a leaderboard
  $ shoal bench report federated/digits --small   the same as a page with plots
  $ shoal bench plan my/benchmarkingjob.yaml      checks a job of your own, runs nothing`;

/** `shoal bench …`. What the commands need is loaded when one of them runs. */
export function addBenchCommands(program: Command): void {
  const bench = program
    .command('bench')
    .description('benchmark suites: algorithms compared, repeated and ranked')
    .addHelpText('after', HELP);
  const shared = (command: Command): Command =>
    command
      .option('--small', 'the small form of the job')
      .option('--workspace <folder>', 'folder for results; default .shoal/bench');
  bench
    .command('list')
    .description('suites that come with Shoal, and what has run of them here')
    .option('--workspace <folder>', 'folder for results; default .shoal/bench')
    .action(async (_o, command: Command) => {
      (await import('./bench.ts')).benchListCommand(command.optsWithGlobals());
    });
  shared(bench.command('plan'))
    .description('the cases of a job, every module loaded and every path checked; runs nothing')
    .argument('<job>', 'a benchmarkingjob.yaml, or the name of a suite')
    .option('--json', 'as JSON')
    .action(async (job: string, _o, command: Command) => {
      await (await import('./bench.ts')).benchPlanCommand(job, command.optsWithGlobals());
    });
  shared(bench.command('run'))
    .description('run what has not run yet, and print the leaderboard')
    .argument('<job>', 'a benchmarkingjob.yaml, or the name of a suite')
    .option('-j, --parallel <n>', 'cases at once; default one for each core')
    .option('--time-limit <seconds>', 'for one case; default the job’s, 600')
    .option('--fresh', 'run what has run before as well')
    .option('--on <place>', 'process, or cluster: as real jobs on the embedded cluster', 'process')
    .action(async (job: string, _o, command: Command) => {
      await (await import('./bench.ts')).benchRunCommand(job, command.optsWithGlobals());
    });
  shared(bench.command('rank'))
    .description('the leaderboard of the newest run')
    .argument('<job>')
    .option('--on <place>', 'process or cluster', 'process')
    .action(async (job: string, _o, command: Command) => {
      (await import('./bench.ts')).benchRankCommand(job, command.optsWithGlobals());
    });
  shared(bench.command('report'))
    .description('the results as files: html, csv, markdown, json, mlflow')
    .argument('<job>')
    .option('--format <list>', 'joined by commas', 'html,csv,markdown,json')
    .option('--out <folder>', 'default the job’s folder of the workspace')
    .option('--on <place>', 'process or cluster', 'process')
    .action(async (job: string, _o, command: Command) => {
      (await import('./bench.ts')).benchReportCommand(job, command.optsWithGlobals());
    });
  shared(bench.command('compare'))
    .description('two algorithms of a job, metric by metric, paired by seed')
    .argument('<a>', 'an algorithm; or a folder of results, then b is another')
    .argument('<b>')
    .requiredOption('--job <job>', 'the job both belong to')
    .option('--on <place>', 'process or cluster', 'process')
    .action(async (a: string, b: string, _o, command: Command) => {
      (await import('./bench.ts')).benchCompareCommand(a, b, command.optsWithGlobals());
    });
}
