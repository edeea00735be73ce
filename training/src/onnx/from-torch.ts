import { create } from '@bufbuild/protobuf';
import { GraphBuilder } from './graph-builder.ts';
import {
  type GraphProto,
  type ModelProto,
  type TensorProto,
  TensorProtoSchema,
} from './onnx_pb.ts';
import { revise } from './revise.ts';
import { DATA_TYPE, floatsOf } from './tensor-data.ts';

/** Where `torch.onnx.export(dynamo=True)` notes what the tensors of the module were (as of PyTorch 2.15). */
const SIGNATURE = 'pkg.torch.export.ExportedProgram.graph_signature';
/** Names that PyTorch's exporters make up. */
const MADE_UP = /^(onnx::\w+|val_\d+|\d+)$/;
/** So many values say whether a tensor is a mask: the first row of a causal one does. */
const HEAD = 2 ** 18;
/** What stands for minus infinity in masks. */
const HUGE = 1e30;

function isFromTorch({ producerName }: ModelProto): boolean {
  return producerName === 'pytorch';
}

interface Signature {
  readonly parameters: ReadonlySet<string>;
  readonly buffers: ReadonlySet<string>;
}

function signatureOf(graph: GraphProto): Signature | undefined {
  const text = graph.metadataProps.find((p) => p.key === SIGNATURE)?.value;
  if (text === undefined) return undefined;
  const named = (kind: string): Set<string> =>
    new Set(
      [...text.matchAll(/: ([A-Z_]+) target='([^']+)'/g)].flatMap(([, k, n = '']) =>
        k === kind ? [n] : [],
      ),
    );
  const parameters = named('PARAMETER');
  // Of a form nobody knows, or of a module without parameters: it tells nothing.
  return parameters.size === 0 ? undefined : { parameters, buffers: named('BUFFER') };
}

/** The first values of a float tensor; a large one is not copied for it. */
function headOf(tensor: TensorProto): Float32Array {
  const { rawData } = tensor;
  if (rawData.length <= HEAD * 4) return floatsOf(tensor);
  return new Float32Array(new Uint8Array(rawData.subarray(0, HEAD * 4)).buffer);
}

function isUniform(values: Float32Array): boolean {
  return values.every((v) => v === values[0]);
}

/**
 * Float tensors that are no parameters: masks; what the exporter made of plain numbers (scales, the γ = 1 of a
 * normalization without parameters); buffers, where the file tells them from parameters.
 */
export function constantTensors(model: ModelProto): Set<string> {
  const { graph } = model;
  const tensors = (graph?.initializer ?? []).filter((t) => t.dataType === DATA_TYPE.float);
  const signature = graph && signatureOf(graph);
  const names = new Set(tensors.map((t) => t.name));
  // A parameter that is missing was folded into a tensor with a made-up name: its transpose, say.
  const isFolded = signature && [...signature.parameters].some((n) => !names.has(n));
  const isConstant = (tensor: TensorProto): boolean => {
    const { name, dims } = tensor;
    if (signature?.buffers.has(name)) return true;
    const values = headOf(tensor);
    if (values.some((v) => !(Math.abs(v) < HUGE))) return true;
    if (signature?.parameters.has(name)) return false;
    if (signature) return !isFolded || dims.length === 0 || isUniform(values);
    // Other exporters keep plain numbers as scalars with names; PyTorch's names those only that are parameters.
    if (dims.length === 0) return !isFromTorch(model) || MADE_UP.test(name);
    return MADE_UP.test(name) && isUniform(values);
  };
  return new Set(tensors.filter(isConstant).map((t) => t.name));
}

/** Identity nodes on tensors as tensors of their own: PyTorch writes them where two parameters begin with equal values. */
function withOwnTensors(graph: GraphProto): GraphProto {
  const tensors = new Map(graph.initializer.map((t) => [t.name, t]));
  const outputs = new Set(graph.output.map((o) => o.name));
  const node = graph.node.filter((n) => {
    const source = n.opType === 'Identity' ? tensors.get(n.input[0] ?? '') : undefined;
    const [name = ''] = n.output;
    if (source?.dataType !== DATA_TYPE.float || outputs.has(name)) return true;
    tensors.set(name, create(TensorProtoSchema, { ...source, name }));
    return false;
  });
  return revise(graph, { node, initializer: [...tensors.values()] });
}

function areTransposes(a: TensorProto, b: TensorProto): boolean {
  const [rows = 0, columns = 0] = a.dims.map(Number);
  const [x, y] = [floatsOf(a), floatsOf(b)];
  for (let i = 0; i < rows; i++)
    for (let k = 0; k < columns; k++) if (x[i * columns + k] !== y[k * rows + i]) return false;
  return true;
}

/** A matrix that is the transpose of another as a node: exporters fold tied weights into two tensors. */
function withTiedTransposes(graph: GraphProto): GraphProto {
  const signature = signatureOf(graph);
  const isMadeUp = ({ name }: TensorProto): boolean =>
    MADE_UP.test(name) || (signature !== undefined && !signature.parameters.has(name));
  const matrices = graph.initializer.filter(
    (t) => t.dataType === DATA_TYPE.float && t.dims.length === 2 && t.dims.every((d) => d > 1n),
  );
  const builder = new GraphBuilder('tied/');
  const gone = new Set<string>();
  for (const copy of matrices.filter(isMadeUp)) {
    const source = matrices.find(
      (t) =>
        t !== copy &&
        !isMadeUp(t) &&
        !gone.has(t.name) &&
        t.dims[0] === copy.dims[1] &&
        t.dims[1] === copy.dims[0] &&
        areTransposes(t, copy),
    );
    if (!source) continue;
    gone.add(copy.name);
    builder.node('Transpose', [source.name], { perm: [1, 0] }, copy.name);
  }
  if (gone.size === 0) return graph;
  return revise(graph, {
    node: [...builder.nodes, ...graph.node],
    initializer: graph.initializer.filter((t) => !gone.has(t.name)),
  });
}

/**
 * A model with each parameter as PyTorch had it: those that only began alike apart, those that were one together.
 * Models of other exporters stay as they are.
 */
export function withOwnParameters(model: ModelProto): ModelProto {
  const { graph } = model;
  if (!graph || !isFromTorch(model)) return model;
  return revise(model, { graph: withTiedTransposes(withOwnTensors(graph)) });
}
