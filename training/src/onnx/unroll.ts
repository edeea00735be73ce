import { Attributes } from './attributes.ts';
import { GraphBuilder } from './graph-builder.ts';
import type { GraphProto, NodeProto } from './onnx_pb.ts';
import { revise } from './revise.ts';
import type { Dims, TracedGraph } from './trace.ts';

/** Longer sequences would make graphs of a hundred thousand nodes. */
const MOST_STEPS = 1024;

/** One direction of a layer, with everything per direction taken apart. */
interface Direction {
  readonly builder: GraphBuilder;
  /** Products of inputs with W, biases of W added: `[1, batch, gates·hidden]` per step, in the order of time. */
  readonly inputs: readonly string[];
  /** Rᵀ: `[hidden, gates·hidden]` */
  readonly recurrence: string;
  /** Biases of R, `[gates·hidden]`; undefined without. */
  readonly bias: string | undefined;
  readonly hidden: number;
  readonly attributes: Attributes;
  /** Functions of the gates, by name. */
  readonly activations: readonly string[];
}

/** What one step carries on: the hidden state, and the cell of an LSTM, `[batch, hidden]`. */
interface State {
  readonly h: string;
  readonly c: string;
}

type Cell = (direction: Direction, x: string, state: State) => State;

function parts(builder: GraphBuilder, value: string, count: number, size: number): string[] {
  return builder.nodeWithOutputs(
    'Split',
    [value, builder.ints(Array.from({ length: count }, () => size))],
    { attributes: { axis: -1 }, outputs: count },
  );
}

/** h·Rᵀ + bias */
function recurred({ builder, recurrence, bias }: Direction, h: string): string {
  const product = builder.node('MatMul', [h, recurrence]);
  return bias === undefined ? product : builder.node('Add', [product, bias]);
}

/** Hochreiter & Schmidhuber 1997 as in ONNX LSTM-14, gates i, o, f, c: c ← f·c + i·g(z_c), h ← o·h(c). */
const lstm: Cell = (direction, x, { h, c }) => {
  const { builder, hidden, activations } = direction;
  const [f = '', g = '', last = ''] = activations;
  const z = builder.node('Add', [x, recurred(direction, h)]);
  const [i = '', o = '', forget = '', candidate = ''] = parts(builder, z, 4, hidden);
  const kept = builder.node('Mul', [builder.node(f, [forget]), c]);
  const fresh = builder.node('Mul', [builder.node(f, [i]), builder.node(g, [candidate])]);
  const cell = builder.node('Add', [kept, fresh]);
  return { h: builder.node('Mul', [builder.node(f, [o]), builder.node(last, [cell])]), c: cell };
};

/** Cho et al. 2014 as in ONNX GRU-14, gates z, r, h: h ← (1 − z)·h̃ + z·h. */
const gru: Cell = (direction, x, { h, c }) => {
  const { builder, hidden, activations, recurrence, bias, attributes } = direction;
  const [f = '', g = ''] = activations;
  const [xz = '', xr = '', xh = ''] = parts(builder, x, 3, hidden);
  const resetsLast = attributes.int('linear_before_reset', 0) === 1;
  const gate = (own: string, from: string): string =>
    builder.node(f, [builder.node('Add', [own, from])]);
  let z: string;
  let candidate: string;
  if (resetsLast) {
    const [hz = '', hr = '', hh = ''] = parts(builder, recurred(direction, h), 3, hidden);
    z = gate(xz, hz);
    candidate = builder.node('Add', [xh, builder.node('Mul', [gate(xr, hr), hh])]);
  } else {
    const [rz = '', rr = '', rh = ''] = parts(builder, recurrence, 3, hidden);
    const biases = bias === undefined ? [] : parts(builder, bias, 3, hidden);
    const from = (state: string, weight: string, at: number): string => {
      const product = builder.node('MatMul', [state, weight]);
      const own = biases[at];
      return own === undefined ? product : builder.node('Add', [product, own]);
    };
    z = gate(xz, from(h, rz, 0));
    const reset = builder.node('Mul', [gate(xr, from(h, rr, 1)), h]);
    candidate = builder.node('Add', [xh, from(reset, rh, 2)]);
  }
  const fresh = builder.node(g, [candidate]);
  // h̃ + z·(h − h̃)
  const away = builder.node('Mul', [z, builder.node('Sub', [h, fresh])]);
  return { h: builder.node('Add', [fresh, away]), c };
};

/** Elman 1990 as in ONNX RNN-14: h ← f(x + h·Rᵀ). */
const rnn: Cell = (direction, x, { h, c }) => {
  const { builder, activations } = direction;
  const z = builder.node('Add', [x, recurred(direction, h)]);
  return { h: builder.node(activations[0] ?? 'Tanh', [z]), c };
};

interface Kind {
  readonly cell: Cell;
  readonly gates: number;
  readonly activations: readonly string[];
}

const KINDS: Readonly<Record<string, Kind>> = {
  LSTM: { cell: lstm, gates: 4, activations: ['Sigmoid', 'Tanh', 'Tanh'] },
  GRU: { cell: gru, gates: 3, activations: ['Sigmoid', 'Tanh'] },
  RNN: { cell: rnn, gates: 1, activations: ['Tanh'] },
};

/** Functions of gates that need no parameter of their own. */
const FUNCTIONS: Readonly<Record<string, string>> = {
  sigmoid: 'Sigmoid',
  tanh: 'Tanh',
  relu: 'Relu',
  softsign: 'Softsign',
  softplus: 'Softplus',
};

function activationNames(node: NodeProto): string[] {
  const given = node.attribute.find((a) => a.name === 'activations')?.strings ?? [];
  return given.map((s) => new TextDecoder().decode(s));
}

/** The functions of each direction, by operator. */
function activationsOf(
  node: NodeProto,
  { activations: usual }: Kind,
  directions: number,
): string[][] {
  const given = activationNames(node).map((n) => FUNCTIONS[n.toLowerCase()] ?? n);
  const names = given.length > 0 ? given : Array.from({ length: directions }, () => usual).flat();
  return Array.from({ length: directions }, (_, d) =>
    names.slice(d * usual.length, (d + 1) * usual.length),
  );
}

/** What of a recurrent layer is not written out; undefined where all is, and for other operators. */
export function unrollObstacle(
  node: NodeProto,
  dimsOf: (value: string) => Dims,
): string | undefined {
  if (!(node.opType in KINDS)) return undefined;
  const attributes = new Attributes(node);
  const [steps = 0] = dimsOf(node.input[0] ?? '');
  const odd = activationNames(node).find((n) => !(n.toLowerCase() in FUNCTIONS));
  const obstacles: readonly (readonly [boolean, string])[] = [
    [steps > MOST_STEPS, `a sequence of ${steps} steps, more than ${MOST_STEPS}`],
    [(node.input[4] ?? '') !== '', 'sequence_lens: sequences of several lengths in a batch'],
    [node.opType === 'LSTM' && (node.input[7] ?? '') !== '', 'peepholes'],
    [attributes.has('clip'), 'clip'],
    [attributes.int('input_forget', 0) === 1, 'input_forget'],
    [attributes.int('layout', 0) === 1, 'layout 1'],
    [odd !== undefined, `the activation ${odd}`],
  ];
  return obstacles.find(([is]) => is)?.[1];
}

/** A value's part of one direction, without that dimension: `[directions, …]` → `[…]`. */
function ofDirection(
  builder: GraphBuilder,
  value: string,
  at: { readonly direction: number; readonly dims: Dims },
): string {
  const { direction, dims } = at;
  const rest = builder.ints(dims.slice(1));
  if (dims[0] === 1) return builder.node('Reshape', [value, rest]);
  const one = builder.node('Slice', [
    value,
    builder.ints([direction]),
    builder.ints([direction + 1]),
    builder.ints([0]),
  ]);
  return builder.node('Reshape', [one, rest]);
}

interface Layer {
  readonly builder: GraphBuilder;
  readonly node: NodeProto;
  readonly kind: Kind;
  readonly attributes: Attributes;
  readonly steps: number;
  readonly batch: number;
  readonly hidden: number;
  readonly dimsOf: (value: string) => Dims;
}

/** The first state of a direction: what is given, or zeros. */
function firstState(layer: Layer, direction: number): State {
  const { builder, node, batch, hidden, dimsOf } = layer;
  const at = (input: number): string => {
    const name = node.input[input] ?? '';
    if (name === '')
      return builder.node('Expand', [builder.float(0), builder.ints([batch, hidden])]);
    return ofDirection(builder, name, { direction, dims: dimsOf(name) });
  };
  return { h: at(5), c: node.opType === 'LSTM' ? at(6) : '' };
}

/** Takes the weights of one direction apart, and multiplies all inputs with W at once. */
function directionOf(layer: Layer, index: number, activations: readonly string[]): Direction {
  const { builder, node, kind, attributes, steps, hidden, dimsOf } = layer;
  const [x = '', w = '', r = '', b = ''] = node.input;
  const own = (value: string): string =>
    ofDirection(builder, value, { direction: index, dims: dimsOf(value) });
  const turned = (value: string): string => builder.node('Transpose', [value], { perm: [1, 0] });
  const biases = b === '' ? [] : parts(builder, own(b), 2, kind.gates * hidden);
  const product = builder.node('MatMul', [x, turned(own(w))]);
  const all = biases[0] === undefined ? product : builder.node('Add', [product, biases[0]]);
  const each = builder.nodeWithOutputs(
    'Split',
    [all, builder.ints(Array.from({ length: steps }, () => 1))],
    { attributes: { axis: 0 }, outputs: steps },
  );
  const flat = builder.ints([layer.batch, kind.gates * hidden]);
  return {
    builder,
    inputs: each.map((v) => builder.node('Reshape', [v, flat])),
    recurrence: turned(own(r)),
    bias: biases[1],
    hidden,
    attributes,
    activations,
  };
}

/** Hidden states by time, and the last state, of one direction. */
function run(
  layer: Layer,
  direction: Direction,
  at: { index: number; isReverse: boolean },
): { states: string[]; last: State } {
  const order = at.isReverse ? direction.inputs.toReversed() : direction.inputs;
  let state = firstState(layer, at.index);
  const states = order.map((x) => {
    state = layer.kind.cell(direction, x, state);
    return state.h;
  });
  return { states: at.isReverse ? states.toReversed() : states, last: state };
}

function writeLayer(layer: Layer): void {
  const { builder, node, kind, attributes, batch, hidden } = layer;
  const way = attributes.text('direction', 'forward');
  const reverses = way === 'bidirectional' ? [false, true] : [way === 'reverse'];
  const activations = activationsOf(node, kind, reverses.length);
  const runs = reverses.map((isReverse, index) =>
    run(layer, directionOf(layer, index, activations[index] ?? []), { index, isReverse }),
  );
  const [y = '', lastH = '', lastC = ''] = node.output;
  const shaped = (value: string, dims: readonly number[]): string =>
    builder.node('Reshape', [value, builder.ints(dims)]);
  const joined = (values: readonly string[], axis: number, as: string): void => {
    builder.node('Concat', values, { axis }, as);
  };
  if (y !== '') {
    const steps = Array.from({ length: layer.steps }, (_, t) => {
      const own = runs.map((r) => shaped(r.states[t] ?? '', [1, 1, batch, hidden]));
      return own.length === 1 ? (own[0] ?? '') : builder.node('Concat', own, { axis: 1 });
    });
    joined(steps, 0, y);
  }
  const lasts = (pick: (state: State) => string): string[] =>
    runs.map((r) => shaped(pick(r.last), [1, batch, hidden]));
  if (lastH !== '')
    joined(
      lasts((s) => s.h),
      0,
      lastH,
    );
  if (lastC !== '')
    joined(
      lasts((s) => s.c),
      0,
      lastC,
    );
}

/**
 * The graph with its recurrent layers (LSTM, GRU, RNN) written out step by step, for sequences as long as they were
 * traced; undefined where there are none. What comes out keeps its names. Layers with an obstacle stay as they are.
 */
export function unroll(graph: GraphProto, facts: TracedGraph['facts']): GraphProto | undefined {
  const builder = new GraphBuilder('shoal/unroll/');
  const dimsOf = (value: string): Dims => facts.get(value)?.dims ?? [];
  const isPlain = (n: NodeProto): boolean =>
    n.domain === '' && n.opType in KINDS && unrollObstacle(n, dimsOf) === undefined;
  if (!graph.node.some(isPlain)) return undefined;
  const nodes = graph.node.flatMap((node) => {
    const kind = KINDS[node.opType];
    if (!kind || !isPlain(node)) return [node];
    const attributes = new Attributes(node);
    const [steps = 0, batch = 0] = dimsOf(node.input[0] ?? '');
    const [, , hidden = 0] = dimsOf(node.input[2] ?? '');
    writeLayer({ builder, node, kind, attributes, steps, batch, hidden, dimsOf });
    return builder.nodes.splice(0);
  });
  return revise(graph, {
    node: nodes,
    initializer: [...graph.initializer, ...builder.initializers],
  });
}
