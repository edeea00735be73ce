import type { Command } from 'commander';
import type { KnowledgeFlags } from './knowledge.ts';

const EXAMPLES = `
Examples:
  $ shoal kb list                              every lifelong job and what it knows
  $ shoal kb show comfort                      its tasks, models and relations
  $ shoal kb show comfort --version 3          as it was then
  $ shoal kb diff comfort 3 7                  which tasks came, changed or went
  $ shoal kb export comfort --out knowledge    one ONNX file per task, and knowledge.json
  $ shoal kb samples comfort                   what edges could not place
  $ shoal kb label comfort edge-1/ab12/7 2     say what a sample is

JOB is the job's name, or namespace/name/id where the name is not unique.`;

/** Adds a command with the flags all of them have. */
function sub(kb: Command, name: string, description: string): Command {
  return kb
    .command(name)
    .description(description)
    .option(
      '--server <host:port>',
      'a knowledge base elsewhere; default the one of this folder’s cluster',
    )
    .option('--key <file>', 'file with the key it shares with the global manager')
    .option('--authority <file>', 'PEM of the authority of its certificate')
    .option('--json', 'as JSON');
}

/** `shoal kb …`; loaded when wanted: gRPC and the model runtime cost other commands a quarter second. */
export function addKnowledgeCommands(program: Command): void {
  const kb = program
    .command('kb')
    .description('what lifelong learning jobs know')
    .addHelpText('after', EXAMPLES);
  sub(kb, 'list', 'every job in the knowledge base').action(async (_o, c: Command) => {
    await (await import('./knowledge.ts')).knowledgeListCommand(
      c.optsWithGlobals<KnowledgeFlags>(),
    );
  });
  sub(kb, 'show', 'tasks, models and relations of a job')
    .argument('<job>')
    .option('--version <n>', 'as it was at a version')
    .action(async (job: string, _o, c: Command) => {
      await (await import('./knowledge.ts')).knowledgeShowCommand(job, c.optsWithGlobals());
    });
  sub(kb, 'export', 'write a job’s models and what is known of its tasks to a folder')
    .argument('<job>')
    .requiredOption('--out <folder>', 'where to write')
    .option('--version <n>', 'as it was at a version')
    .action(async (job: string, _o, c: Command) => {
      await (await import('./knowledge.ts')).knowledgeExportCommand(job, c.optsWithGlobals());
    });
  sub(kb, 'diff', 'tasks that differ between two versions of a job')
    .argument('<job>')
    .argument('<a>')
    .argument('<b>')
    .action(async (...all: unknown[]) => {
      const [job, a, b, , c] = all as [string, string, string, object, Command];
      await (await import('./knowledge.ts')).knowledgeDiffCommand(job, [a, b], c.optsWithGlobals());
    });
  sub(kb, 'samples', 'samples that edges could not place')
    .argument('<job>')
    .option('--limit <n>', 'at most this many', '50')
    .action(async (job: string, _o, c: Command) => {
      await (await import('./knowledge.ts')).knowledgeSamplesCommand(job, c.optsWithGlobals());
    });
  sub(kb, 'label', 'say what a sample is; the next training learns from it')
    .argument('<job>')
    .argument('<sample>')
    .argument('<label>')
    .action(async (...all: unknown[]) => {
      const [job, sample, label, , c] = all as [string, string, string, object, Command];
      await (await import('./knowledge.ts')).knowledgeLabelCommand(
        job,
        { sample, label },
        c.optsWithGlobals(),
      );
    });
}
