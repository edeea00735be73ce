import type { Command } from 'commander';
import type { LabelFlags } from './label.ts';

const EXAMPLES = `
Examples:
  $ shoal label list                           jobs with hard examples, and how many wait
  $ shoal label list digits                    those of one job
  $ shoal label show digits 3f9a               as a picture in the terminal
  $ shoal label show digits 3f9a --out it.png  or in a file
  $ shoal label go digits                      one after the other: look, type, next
  $ shoal label set digits 3f9a 7              say what one is
  $ shoal label export digits --out todo.csv   label elsewhere …
  $ shoal label import digits todo.csv         … and bring it back: all of it counts, or nothing
  $ shoal label accept digits                  take what the label model suggested

A labelled sample becomes a line of the job's dataset; enough of them start a training.`;

/** Adds a command with the flags all of them have. */
function sub(label: Command, name: string, description: string): Command {
  return label
    .command(name)
    .description(description)
    .option(
      '--server <host:port>',
      'a sample service elsewhere; default the one of this folder’s cluster',
    )
    .option('--key <file>', 'file with the key of its tokens')
    .option('--authority <file>', 'PEM of the authority of its certificate')
    .option('--by <name>', 'who labels; default your user name')
    .option('--json', 'as JSON');
}

const load = async () => await import('./label.ts');

/** `shoal label …`; loaded when wanted. */
export function addLabelCommands(program: Command): void {
  const label = program
    .command('label')
    .description('say what hard examples are')
    .addHelpText('after', EXAMPLES);
  sub(label, 'list', 'jobs with hard examples, or the samples of one')
    .argument('[job]')
    .option(
      '--state <state>',
      'new, suggested, labelled, delivered or rejected; default all that wait',
    )
    .option('--limit <n>', 'at most this many', '50')
    .action(async (job: string | undefined, _o, c: Command) => {
      await (await load()).labelListCommand(job, c.optsWithGlobals());
    });
  sub(label, 'show', 'one sample, as a picture where it is one')
    .argument('<job>')
    .argument('<sample>', 'its id, or the beginning of it')
    .option('--out <file>', 'write it to a .png, .jpg or .json file')
    .action(async (job: string, sample: string, _o, c: Command) => {
      await (await load()).labelShowCommand(job, sample, c.optsWithGlobals());
    });
  sub(label, 'go', 'one sample after the other: look, type, next')
    .argument('<job>')
    .action(async (job: string, _o, c: Command) => {
      await (await load()).labelGoCommand(job, c.optsWithGlobals<LabelFlags>());
    });
  sub(label, 'set', 'say what a sample is')
    .argument('<job>')
    .argument('<sample>')
    .argument('<label>', 'class index, or a name')
    .action(async (...all: unknown[]) => {
      const [job, sample, value, , c] = all as [string, string, string, object, Command];
      await (await load()).labelSetCommand(job, { sample, label: value }, c.optsWithGlobals());
    });
  sub(label, 'reject', 'a sample is not to be learned')
    .argument('<job>')
    .argument('<sample>')
    .argument('[reason...]', 'why')
    .action(async (...all: unknown[]) => {
      const [job, sample, words, , c] = all as [string, string, string[], object, Command];
      const reject = words.join(' ') || 'not to be learned';
      await (await load()).labelSetCommand(job, { sample, reject }, c.optsWithGlobals());
    });
  addFileCommands(label);
}

function addFileCommands(label: Command): void {
  sub(label, 'export', 'write samples to a file in which labels are filled in')
    .argument('<job>')
    .requiredOption('--out <file>', '.jsonl with the data, or .csv without')
    .option('--state <state>', 'new, suggested, labelled or rejected; default all that wait')
    .action(async (job: string, _o, c: Command) => {
      await (await load()).labelExportCommand(job, c.optsWithGlobals());
    });
  sub(label, 'import', 'take the labels of such a file: all of them, or none')
    .argument('<job>')
    .argument('<file>')
    .action(async (job: string, file: string, _o, c: Command) => {
      await (await load()).labelImportCommand(job, file, c.optsWithGlobals());
    });
  sub(label, 'accept', 'take what the label model suggested')
    .argument('<job>')
    .option('--min-confidence <p>', 'only where it was at least this sure', '0')
    .action(async (job: string, _o, c: Command) => {
      await (await load()).labelAcceptCommand(job, c.optsWithGlobals());
    });
}
