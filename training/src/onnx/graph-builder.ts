import { create } from '@bufbuild/protobuf';
import {
  type AttributeProto,
  AttributeProtoSchema,
  type GraphProto,
  GraphProtoSchema,
  type ModelProto,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  OperatorSetIdProtoSchema,
  type TensorProto,
  TensorProtoSchema,
  type ValueInfoProto,
  ValueInfoProtoSchema,
} from './onnx_pb.ts';
import { DATA_TYPE, floatTensor, int64Tensor } from './tensor-data.ts';

/** A dimension: a number, or the name of one that is known at run time only (the batch). */
export type Dim = number | string;
export type Shape = readonly Dim[];

type AttributeValue =
  | number
  | string
  | readonly number[]
  | { readonly float: number }
  | { readonly floats: readonly number[] }
  | { readonly strings: readonly string[] };

/** A node attribute of the type its value has; `{ float }`, `{ floats }`, `{ strings }` for those. */
export function attribute(name: string, value: AttributeValue): AttributeProto {
  if (typeof value === 'string')
    return create(AttributeProtoSchema, { name, type: 3, s: new TextEncoder().encode(value) });
  if (typeof value === 'number')
    return create(AttributeProtoSchema, { name, type: 2, i: BigInt(value) });
  if ('float' in value) return create(AttributeProtoSchema, { name, type: 1, f: value.float });
  if ('floats' in value)
    return create(AttributeProtoSchema, { name, type: 6, floats: [...value.floats] });
  if ('strings' in value) {
    const strings = value.strings.map((s) => new TextEncoder().encode(s));
    return create(AttributeProtoSchema, { name, type: 8, strings });
  }
  return create(AttributeProtoSchema, { name, type: 7, ints: value.map(BigInt) });
}

export function valueInfo(name: string, elementType: number, shape: Shape): ValueInfoProto {
  const dim = shape.map((d) => ({
    value:
      typeof d === 'number'
        ? { case: 'dimValue' as const, value: BigInt(d) }
        : { case: 'dimParam' as const, value: d },
  }));
  return create(ValueInfoProtoSchema, {
    name,
    type: { value: { case: 'tensorType', value: { elemType: elementType, shape: { dim } } } },
  });
}

export interface NodeOptions {
  readonly attributes?: Readonly<Record<string, AttributeValue>>;
  /** How many outputs the node has; default 1. */
  readonly outputs?: number;
  /** Operator domain; default the standard one. */
  readonly domain?: string;
  /** Name of the first output; generated when not given. */
  readonly as?: string;
}

/** Operators that give another result each time. */
export const RANDOM: ReadonlySet<string> = new Set([
  'RandomNormal',
  'RandomNormalLike',
  'RandomUniform',
  'RandomUniformLike',
  'Bernoulli',
  'Multinomial',
  'Dropout',
]);

/** Writes ONNX nodes one after another; every method returns the name of the value it makes. */
export class GraphBuilder {
  readonly nodes: NodeProto[] = [];
  readonly initializers: TensorProto[] = [];
  readonly inputs: ValueInfoProto[] = [];
  readonly outputs: ValueInfoProto[] = [];
  readonly #constants = new Map<string, string>();
  readonly #made = new Map<string, string>();
  #next = 0;
  readonly #prefix: string;

  /** @param prefix Keeps generated names apart from those of a model the nodes are added to. */
  constructor(prefix = 'shoal/') {
    this.#prefix = prefix;
  }

  fresh(hint: string): string {
    return `${this.#prefix}${hint}_${this.#next++}`;
  }

  /** Adds a node with several outputs and returns all their names. */
  nodeWithOutputs(opType: string, input: readonly string[], options: NodeOptions = {}): string[] {
    const names = Array.from({ length: options.outputs ?? 1 }, (_, i) =>
      i === 0 && options.as ? options.as : this.fresh(opType),
    );
    this.nodes.push(
      create(NodeProtoSchema, {
        opType,
        ...(options.domain ? { domain: options.domain } : {}),
        input: [...input],
        output: names,
        name: this.fresh(`node_${opType}`),
        attribute: Object.entries(options.attributes ?? {}).map(([k, v]) => attribute(k, v)),
      }),
    );
    return names;
  }

  /** Adds a node with one output; the same node asked for again is made once. */
  node(
    opType: string,
    input: readonly string[],
    attributes: NodeOptions['attributes'] = {},
    as?: string,
  ): string {
    const key = `${opType}(${input.join(',')})${JSON.stringify(attributes)}`;
    const known = as === undefined && !RANDOM.has(opType) ? this.#made.get(key) : undefined;
    if (known !== undefined) return known;
    const [name = ''] = this.nodeWithOutputs(opType, input, { attributes, ...(as ? { as } : {}) });
    this.#made.set(key, name);
    return name;
  }

  /** A constant float scalar. Equal constants are made once. */
  float(value: number): string {
    return this.#constant(`f${value}`, (name) => floatTensor(name, [], Float32Array.of(value)));
  }

  /** A constant float tensor, row-major. */
  floats(values: Float32Array, dims: readonly number[]): string {
    const name = this.fresh('const');
    this.initializers.push(floatTensor(name, dims, values));
    return name;
  }

  /** A row of ones, `[1, length]`. */
  ones(length: number): string {
    return this.#constant(`ones${length}`, (name) =>
      floatTensor(name, [1, length], new Float32Array(length).fill(1)),
    );
  }

  /** A constant boolean scalar. */
  bool(value: boolean): string {
    return this.#constant(`b${value}`, (name) =>
      create(TensorProtoSchema, {
        name,
        dims: [],
        dataType: DATA_TYPE.bool,
        rawData: Uint8Array.of(value ? 1 : 0),
      }),
    );
  }

  /** A constant list of int64 (axes, shapes, starts). */
  ints(values: readonly number[]): string {
    return this.#constant(`i${values.join(',')}`, (name) =>
      int64Tensor(name, [values.length], values),
    );
  }

  /** A constant int64 scalar. */
  int(value: number): string {
    return this.#constant(`s${value}`, (name) => int64Tensor(name, [], [value]));
  }

  #constant(key: string, make: (name: string) => TensorProto): string {
    const known = this.#constants.get(key);
    if (known !== undefined) return known;
    const name = this.fresh('const');
    this.initializers.push(make(name));
    this.#constants.set(key, name);
    return name;
  }

  input(name: string, shape: Shape, elementType: number = DATA_TYPE.float): string {
    this.inputs.push(valueInfo(name, elementType, shape));
    return name;
  }

  output(name: string, shape: Shape, elementType: number = DATA_TYPE.float): void {
    this.outputs.push(valueInfo(name, elementType, shape));
  }

  graph(name: string): GraphProto {
    return create(GraphProtoSchema, {
      name,
      node: this.nodes,
      initializer: this.initializers,
      input: this.inputs,
      output: this.outputs,
    });
  }
}

/** Versions of operator sets beside the standard one; others are 1. */
const DOMAIN_VERSIONS: Readonly<Record<string, bigint>> = { 'ai.onnx.ml': 3n };

function domainsOf({ node }: GraphProto): string[] {
  return node.flatMap((n) => [
    n.domain,
    ...n.attribute.flatMap(({ g }) => (g ? domainsOf(g) : [])),
  ]);
}

/** A model around a graph. */
export function modelOf(graph: GraphProto, opset: number): ModelProto {
  const domains = new Set(domainsOf(graph).filter((d) => d !== ''));
  return create(ModelProtoSchema, {
    irVersion: 9n,
    producerName: 'shoal',
    graph,
    opsetImport: [
      create(OperatorSetIdProtoSchema, { domain: '', version: BigInt(opset) }),
      ...[...domains].map((domain) =>
        create(OperatorSetIdProtoSchema, { domain, version: DOMAIN_VERSIONS[domain] ?? 1n }),
      ),
    ],
  });
}
