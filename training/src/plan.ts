import { ShoalError } from '@shoal/core';
import {
  type Choice,
  candidatesOf,
  type Parameter,
  statisticsOf,
  withOwnStatistics,
} from './candidates.ts';
import type { LossDefinition, MetricName } from './losses/loss.ts';
import { type LossName, type LossOptions, lossDefinition } from './losses/losses.ts';
import { constantTensors, withOwnParameters } from './onnx/from-torch.ts';
import { opsetOf, readModel } from './onnx/model-file.ts';
import type { GraphProto, ModelProto, ValueInfoProto } from './onnx/onnx_pb.ts';
import { revise } from './onnx/revise.ts';
import { DATA_TYPE } from './onnx/tensor-data.ts';
import { upgrade, WORKING_OPSET } from './onnx/upgrade.ts';
import { type OptimizerNodes, type OptimizerOptions, optimizerNodes } from './optimizers.ts';
import type { TrainingFormOptions } from './training-form.ts';

/** What pulls a parameter θ towards an anchor θ*, added to its gradient. */
export type Penalty =
  /** g + μ(θ − θ*): the proximal term of FedProx (Li et al. 2020, eq. 2). */
  | { readonly name: 'proximal'; readonly strength: number }
  /** g + λ·F·(θ − θ*): elastic weight consolidation (Kirkpatrick et al. 2017, eq. 3), F the importance. */
  | { readonly name: 'elastic'; readonly strength: number };

export interface PlanOptions extends Choice {
  readonly model: ModelProto;
  readonly loss: LossName | LossOptions;
  readonly optimizer: OptimizerOptions;
  /** Output the loss is computed from; default the first. */
  readonly output?: string;
  /** Scores computed beside the loss; default what suits the loss. */
  readonly metrics?: readonly MetricName[];
  /** Largest global L2 norm of the gradient, > 0; larger ones are scaled down. Default unlimited. */
  readonly clipNorm?: number;
  readonly penalty?: Penalty;
  /** Whether a step adds an offset to every gradient (SCAFFOLD's control variates). Default false. */
  readonly gradientOffset?: boolean;
  /** Default `train`: statistics of the batch, running ones updated. `frozen` uses the running ones. */
  readonly batchNormalization?: 'train' | 'frozen';
  /** Whether Dropout nodes drop while training. Default true. */
  readonly dropout?: boolean;
  /** Seed of dropout masks. Default 1. */
  readonly seed?: number;
  /** Sizes of the symbolic dimensions of the inputs, other than the batch. */
  readonly dimensions?: Readonly<Record<string, number>>;
}

/** An input of the model; the first dimension of a symbolic one is the batch. */
export interface ModelInput {
  readonly name: string;
  readonly elementType: number;
  /** The batch, where the model has it fixed. */
  readonly batch?: number;
  /** Shape of one sample: the input's without the batch. */
  readonly rest: readonly number[];
}

/** Everything known about a model before the shape of a batch is. */
export interface Plan {
  readonly model: ModelProto;
  /** The model's nodes in the working opset, with those of a user-given loss behind them. */
  readonly forward: GraphProto;
  readonly opset: number;
  readonly inputs: readonly ModelInput[];
  readonly output: string;
  /** Float initializers chosen for training, before it is known which of them influence the output. */
  readonly candidates: readonly Parameter[];
  /** Running statistics that training replaces. */
  readonly buffers: readonly Parameter[];
  /** True when the user chose them: then one without influence is an error. */
  readonly chosen: boolean;
  readonly loss: LossDefinition | GraphLoss;
  readonly metrics: readonly MetricName[];
  readonly optimizer: OptimizerNodes;
  readonly form: TrainingFormOptions;
  readonly clipNorm: number | undefined;
  readonly penalty: Penalty | undefined;
  readonly gradientOffset: boolean;
}

/** A loss that is part of the forward graph. */
export interface GraphLoss {
  readonly value: string;
  /** Its inputs beside the output, as inputs of the graph: name of the target → name of the value. */
  readonly targets: readonly {
    readonly name: string;
    readonly value: string;
    readonly info: ValueInfoProto;
  }[];
}

/** Name of the value a target enters the graph under. */
export function targetName(name: string): string {
  return name === 'targets' ? 'shoal/targets' : `shoal/targets/${name}`;
}

function elementTypeOf(info: ValueInfoProto): number {
  return info.type?.value.case === 'tensorType' ? (info.type.value.value.elemType ?? 0) : 0;
}

const INPUT_TYPES: ReadonlySet<number> = new Set([
  DATA_TYPE.float,
  DATA_TYPE.int64,
  DATA_TYPE.int32,
  DATA_TYPE.bool,
]);

function inputOf(info: ValueInfoProto, sizes: Readonly<Record<string, number>>): ModelInput {
  const { name } = info;
  const tensor = info.type?.value.case === 'tensorType' ? info.type.value.value : undefined;
  const dims = tensor?.shape?.dim;
  if (!tensor || !dims || dims.length === 0)
    throw new ShoalError('unsupported', `input "${name}" does not declare its shape`);
  if (!INPUT_TYPES.has(elementTypeOf(info)))
    throw new ShoalError(
      'unsupported',
      `input "${name}" has ONNX element type ${elementTypeOf(info)}; float32, int64, int32 and bool can be fed`,
    );
  const rest = dims.slice(1).map((d, i) => {
    if (d.value.case === 'dimValue' && d.value.value > 0n) return Number(d.value.value);
    const symbol = d.value.case === 'dimParam' ? d.value.value : '';
    const given = sizes[symbol] ?? sizes[`${name}.${i + 1}`];
    if (given !== undefined) return given;
    const key = symbol === '' ? `'${name}.${i + 1}'` : symbol;
    throw new ShoalError(
      'invalid_argument',
      `dimension ${i + 1} of input "${name}" has no fixed size; pass dimensions: { ${key}: … }`,
    );
  });
  const [first] = dims;
  const batch = first?.value.case === 'dimValue' ? Number(first.value.value) : 0;
  return { name, elementType: elementTypeOf(info), rest, ...(batch > 0 ? { batch } : {}) };
}

/** Appends a user-given loss graph to the forward graph, its values renamed out of the way. */
function withGraphLoss(
  forward: GraphProto,
  output: string,
  { bytes, opset }: { readonly bytes: Uint8Array; readonly opset: number },
): { forward: GraphProto; loss: GraphLoss } {
  const model = readModel(bytes);
  if (opsetOf(model) > Math.max(opset, WORKING_OPSET))
    throw new ShoalError(
      'invalid_argument',
      `the loss graph is of operator set ${opsetOf(model)}, newer than the model's ${opset}; export it with ${Math.max(opset, WORKING_OPSET)} or older`,
    );
  const graph = model.graph ? upgrade(model.graph, opsetOf(model)) : undefined;
  const initialized = new Set(graph?.initializer.map((t) => t.name));
  const [first, ...others] = graph?.input.filter((i) => !initialized.has(i.name)) ?? [];
  const value = graph?.output[0]?.name;
  if (!graph || !first || value === undefined)
    throw new ShoalError(
      'invalid_argument',
      'a loss graph needs the model output as its first input and the scalar loss as its first output',
    );
  const renamed = (name: string): string => {
    if (name === '') return '';
    if (name === first.name) return output;
    return others.some((o) => o.name === name) ? targetName(name) : `shoal/loss/${name}`;
  };
  const node = graph.node.map((n) =>
    revise(n, {
      name: `shoal/loss/${n.name}`,
      input: n.input.map(renamed),
      output: n.output.map(renamed),
    }),
  );
  const initializer = graph.initializer.map((t) => revise(t, { name: renamed(t.name) }));
  return {
    forward: revise(forward, {
      node: [...forward.node, ...node],
      initializer: [...forward.initializer, ...initializer],
    }),
    loss: {
      value: renamed(value),
      targets: others.map((info) => ({ name: info.name, value: targetName(info.name), info })),
    },
  };
}

/** The batch size that a model has fixed; undefined for one that takes any. */
export function fixedBatch({ inputs }: Pick<Plan, 'inputs'>): number | undefined {
  return inputs.find((i) => i.batch !== undefined)?.batch;
}

function outputOf(forward: GraphProto, wanted: string | undefined): string {
  const names = forward.output.map((o) => o.name);
  const name = wanted ?? names[0] ?? '';
  if (!names.includes(name))
    throw new ShoalError(
      'invalid_argument',
      `the model has no output "${name}"; it has: ${names.join(', ')}`,
    );
  return name;
}

function expectPositive(name: string, value: number | undefined): void {
  if (value !== undefined && !(value > 0))
    throw new ShoalError('invalid_argument', `${name} must be > 0, got ${value}`);
}

/** Reads a model for training: inputs, parameters, loss, optimizer. */
export function planTraining(options: PlanOptions): Plan {
  const model = withOwnParameters(options.model);
  if (!model.graph) throw new ShoalError('data_corrupt', 'the model has no graph');
  expectPositive('clipNorm', options.clipNorm);
  expectPositive('the strength of the penalty', options.penalty?.strength);
  const opset = Math.max(opsetOf(model), WORKING_OPSET);
  const own = withOwnStatistics(upgrade(model.graph, opsetOf(model)));
  const constants = constantTensors(model);
  const output = outputOf(own, options.output);
  const given = typeof options.loss === 'string' ? { name: options.loss } : options.loss;
  const { forward, loss } =
    given.name === 'graph'
      ? withGraphLoss(own, output, { bytes: given.model, opset: opsetOf(model) })
      : { forward: own, loss: lossDefinition(given) };
  const initialized = new Set(own.initializer.map((t) => t.name));
  return {
    model,
    forward,
    opset,
    inputs: own.input
      .filter((i) => !initialized.has(i.name))
      .map((i) => inputOf(i, options.dimensions ?? {})),
    output,
    candidates: candidatesOf(own, constants, options),
    buffers: options.batchNormalization === 'frozen' ? [] : statisticsOf(own),
    chosen: options.trainable !== undefined,
    loss,
    metrics: options.metrics ?? ('write' in loss ? loss.metrics : []),
    optimizer: optimizerNodes(options.optimizer),
    form: {
      batchNormalization: options.batchNormalization ?? 'train',
      dropout: options.dropout ?? true,
      seed: options.seed ?? 1,
    },
    clipNorm: options.clipNorm,
    penalty: options.penalty,
    gradientOffset: options.gradientOffset ?? false,
  };
}
