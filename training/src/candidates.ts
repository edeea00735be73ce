import { ShoalError } from '@shoal/core';
import type { GraphProto, TensorProto } from './onnx/onnx_pb.ts';
import { readsOf } from './onnx/reads.ts';
import { revise } from './onnx/revise.ts';
import { DATA_TYPE } from './onnx/tensor-data.ts';

/** A trainable initializer. */
export interface Parameter {
  readonly name: string;
  readonly shape: readonly number[];
}

/** What the user says about which parameters to train. */
export interface Choice {
  /** Which float initializers are trained; default all that influence the output. */
  readonly trainable?: (name: string) => boolean;
  /** Parameters to freeze, by name; `*` stands for any characters: `['backbone.*']`. */
  readonly stopGradient?: readonly string[];
}

function globOf(pattern: string): RegExp {
  const escaped = pattern.replaceAll(/[.+?^${}()|[\]\\]/g, String.raw`\$&`).replaceAll('*', '.*');
  return new RegExp(`^${escaped}$`);
}

/**
 * Exporters write Identity where two tensors of a model are equal: running statistics are read from where they
 * are, so that a step can replace them.
 */
export function withOwnStatistics(forward: GraphProto): GraphProto {
  const sources = new Map(
    forward.node
      .filter((n) => n.opType === 'Identity')
      .map((n) => [n.output[0] ?? '', n.input[0] ?? '']),
  );
  const sourceOf = (name: string): string => {
    const source = sources.get(name);
    return source === undefined ? name : sourceOf(source);
  };
  const node = forward.node.map((n) =>
    n.opType === 'BatchNormalization'
      ? revise(n, { input: n.input.map((name, i) => (i < 3 ? name : sourceOf(name))) })
      : n,
  );
  return revise(forward, { node });
}

/** Running statistics are float initializers too, but no gradient trains them. */
export function statisticsOf(forward: GraphProto): Parameter[] {
  const names = new Set(
    forward.node.flatMap((n) => (n.opType === 'BatchNormalization' ? n.input.slice(3, 5) : [])),
  );
  return forward.initializer
    .filter((t) => names.has(t.name))
    .map((t) => ({ name: t.name, shape: t.dims.map(Number) }));
}

/**
 * The float tensors to train, before it is known which of them influence the output.
 *
 * @param constants Tensors that are no parameters.
 * @throws ShoalError `invalid_argument` when there are none, or a pattern freezes nothing.
 */
export function candidatesOf(
  forward: GraphProto,
  constants: ReadonlySet<string>,
  options: Choice,
): Parameter[] {
  const { trainable = (): boolean => true, stopGradient = [] } = options;
  const used = new Set(forward.node.flatMap(readsOf));
  const statistics = new Set(statisticsOf(forward).map((s) => s.name));
  const frozen = stopGradient.map(globOf);
  const idle = stopGradient.find(
    (_, i) => !forward.initializer.some((t) => frozen[i]?.test(t.name)),
  );
  if (idle !== undefined)
    throw new ShoalError(
      'invalid_argument',
      `"${idle}" freezes nothing: no parameter has such a name (exporters rename what they fold); there are ${forward.initializer
        .filter((t) => t.dataType === DATA_TYPE.float && !constants.has(t.name))
        .slice(0, 8)
        .map((t) => t.name)
        .join(', ')}`,
    );
  // A scalar that is taken for a number can be chosen by its name.
  const isNumber = (t: TensorProto): boolean =>
    constants.has(t.name) && !(options.trainable && t.dims.length === 0);
  const parameters = forward.initializer
    .filter(
      (t) =>
        t.dataType === DATA_TYPE.float &&
        !isNumber(t) &&
        used.has(t.name) &&
        !statistics.has(t.name) &&
        trainable(t.name) &&
        !frozen.some((f) => f.test(t.name)),
    )
    .map((t) => ({ name: t.name, shape: t.dims.map(Number) }));
  if (parameters.length === 0) throw nothingToTrain(forward);
  return parameters;
}

function typeName({ dataType }: { readonly dataType: number }): string {
  return Object.entries(DATA_TYPE).find(([, type]) => type === dataType)?.[0] ?? `${dataType}`;
}

/** No parameter can be trained: says which initializers there are. */
export function nothingToTrain(forward: GraphProto): ShoalError {
  const names = forward.initializer
    .map((t) => (t.dataType === DATA_TYPE.float ? t.name : `${t.name} of type ${typeName(t)}`))
    .slice(0, 8)
    .join(', ');
  return new ShoalError(
    'invalid_argument',
    `no trainable parameter: none of the model's initializers (${names || 'it has none'}) is a float32 tensor that is selected, not frozen, and read on the way to the output`,
  );
}
