import type { Command } from 'commander';
import type { InspectFlags } from './model-inspect.ts';
import type { TrainFlags } from './model-train.ts';

function collect(value: string, before: string[]): string[] {
  return [...before, value];
}

const TRAIN_EXAMPLES = `
Example:
  $ shoal model train lenet.onnx --data mnist/ --loss softmax-cross-entropy --epochs 3
  $ shoal model train price.onnx --data houses.csv --target price --loss mean-squared-error

The file may come from torch.onnx.export(), tf2onnx, or @shoal/training. The result opens in any
ONNX consumer.`;

const SERVED_EXAMPLES = `
Models that jobs have served:
  $ shoal model list                    of all incremental learning jobs
  $ shoal model show digits             the one that serves, with its metrics
  $ shoal model rollback digits         back to the one before, until --off

ONNX files:
  $ shoal model inspect lenet.onnx      what is in it, what is trainable
  $ shoal model train lenet.onnx --data mnist/
  $ shoal model push lenet.onnx         into the cloud, for a Model with a blob: URL`;

function addServedModelCommands(model: Command): void {
  model
    .command('list')
    .description('models that incremental learning jobs have served')
    .argument('[job]')
    .option('--json', 'as JSON')
    .action(async (job: string | undefined, _o, c: Command) => {
      await (await import('./models.ts')).modelListCommand(job, c.optsWithGlobals());
    });
  model
    .command('show')
    .description('one of them with its metrics; default the one that serves')
    .argument('<job>')
    .argument('[model]', 'digest, its beginning, or the round')
    .option('--json', 'as JSON')
    .action(async (job: string, which: string | undefined, _o, c: Command) => {
      await (await import('./models.ts')).modelShowCommand(job, which, c.optsWithGlobals());
    });
  model
    .command('rollback')
    .description('serve an earlier model, and go on doing so')
    .argument('<job>')
    .option('--to <model>', 'digest, its beginning, or the round; default the one before')
    .option('--off', 'let the next better model be deployed again')
    .option('--no-wait', 'return before it serves')
    .option('--json', 'as JSON')
    .action(async (job: string, _o, c: Command) => {
      await (await import('./models.ts')).modelRollbackCommand(job, c.optsWithGlobals());
    });
  model
    .command('push')
    .description('store a file in the cloud, for a Model with a blob: URL')
    .argument('<file>')
    .option('--server <host:port>', 'a sample service elsewhere')
    .option('--key <file>', 'file with the key of its tokens')
    .option('--authority <file>', 'PEM of the authority of its certificate')
    .option('--json', 'as JSON')
    .action(async (file: string, _o, c: Command) => {
      await (await import('./label.ts')).modelPushCommand(file, c.optsWithGlobals());
    });
}

/** `shoal model …`; loaded when wanted. */
export function addModelCommands(program: Command): void {
  const model = program
    .command('model')
    .description('models that jobs have served; ONNX files, without Python')
    .addHelpText('after', SERVED_EXAMPLES);
  addServedModelCommands(model);
  model
    .command('inspect')
    .description('graph, parameters, what is trainable, which operator would block training')
    .argument('<file>', 'an ONNX file')
    .option('--output <name>', 'the output training would start from; default the first')
    .option('--dimension <name=size>', 'size of a symbolic dimension; repeatable', collect, [])
    .option('--nodes', 'list every node')
    .option('--json', 'as JSON')
    .action(async (file: string, flags: InspectFlags) => {
      // Loaded when wanted: the model runtime costs every other command a quarter second.
      const { modelInspectCommand } = await import('./model-inspect.ts');
      await modelInspectCommand(file, flags);
    });
  model
    .command('train')
    .description('fine-tune any ONNX file on labelled samples')
    .argument('<file>', 'an ONNX file')
    .requiredOption(
      '--data <path>',
      '.csv, .jsonl (image lines), .npz (x and y), .parquet, .txt (index of images), a folder of images by class, or of IDX files; of a model with several inputs, their values one after another',
    )
    .option(
      '--loss <name>',
      'softmax-cross-entropy, binary-cross-entropy, mean-squared-error, huber',
      'softmax-cross-entropy',
    )
    .option('--optimizer <name>', 'sgd, adam, adamw, rmsprop, adagrad', 'adam')
    .option('--learning-rate <number>', 'size of a step', '0.001')
    .option('--schedule <name>', 'constant, or cosine down to 0', 'constant')
    .option('--epochs <n>', 'passes over the data', '3')
    .option('--batch-size <n>', 'samples per step', '32')
    .option('--validation <share>', 'share of the samples held out', '0.1')
    .option('--freeze <pattern>', 'parameters to leave alone, * for any; repeatable', collect, [])
    .option('--target <column>', 'column of a CSV file to predict')
    .option(
      '--class-axis <place>',
      'where an output of several dimensions has its classes: last, second',
    )
    .option('--ignore-index <n>', 'class that marks what does not count (padding)')
    .option('--dimension <name=size>', 'size of a symbolic dimension; repeatable', collect, [])
    .option('--threads <n>', 'threads of the runtime', '2')
    .option('--seed <n>', 'order of samples and dropout', '1')
    .option('--out <file>', 'where to write; default <file>.trained.onnx')
    .option('--json', 'no table, only the last line')
    .addHelpText('after', TRAIN_EXAMPLES)
    .action(async (file: string, flags: TrainFlags) => {
      const { modelTrainCommand } = await import('./model-train.ts');
      await modelTrainCommand(file, flags);
    });
}
