import * as ort from 'onnxruntime-node';
import { writeDepthwise } from './gradients/depthwise.ts';
import { GraphBuilder, modelOf } from './onnx/graph-builder.ts';
import { writeModel } from './onnx/model-file.ts';

const CANDIDATES: readonly number[] = [16, 8];
const CHANNELS = 32;

/** Whether blocks of this size give what the standard operator gives. */
async function agrees(blockSize: number): Promise<boolean> {
  const dims = [1, CHANNELS, 5, 5];
  const weight = [CHANNELS, 1, 3, 3];
  const at = {
    x: 'x',
    w: 'w',
    channels: CHANNELS,
    kernel: [3, 3],
    strides: [1, 1],
    dilations: [1, 1],
  };
  const convolution = { ...at, begins: [1, 1], ends: [1, 1] };
  const builder = new GraphBuilder('');
  builder.input('x', dims);
  builder.input('w', weight);
  const blocked = writeDepthwise(builder, convolution, blockSize);
  const standard = writeDepthwise(builder, convolution, undefined);
  const gap = builder.node('Abs', [builder.node('Sub', [blocked, standard])]);
  builder.output(builder.node('ReduceMax', [gap], { keepdims: 0 }, 'gap'), []);
  let session: ort.InferenceSession | undefined;
  try {
    session = await ort.InferenceSession.create(writeModel(modelOf(builder.graph('probe'), 18)), {
      intraOpNumThreads: 1,
      logSeverityLevel: 4,
    });
    const wave = (n: number): Float32Array =>
      Float32Array.from({ length: n }, (_, i) => Math.sin(i * i));
    const results = await session.run({
      x: new ort.Tensor('float32', wave(25 * CHANNELS), dims),
      w: new ort.Tensor('float32', wave(9 * CHANNELS), weight),
    });
    return Number(results['gap']?.data[0]) < 1e-5;
  } catch {
    return false; // this build or machine has no such layout
  } finally {
    await session?.release();
  }
}

let found: Promise<number | undefined> | undefined;

/**
 * Channels per block of the runtime's own convolution layout (NCHWc): 8 with AVX2, 16 with AVX-512.
 * Found by trying on a small convolution, once per process; undefined where the layout is missing.
 */
export function findBlockSize(): Promise<number | undefined> {
  found ??= (async () => {
    for (const size of CANDIDATES) if (await agrees(size)) return size;
    return undefined;
  })();
  return found;
}
