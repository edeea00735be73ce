import { type Random, ShoalError } from '@shoal/core';
import { GraphBuilder, modelOf } from './onnx/graph-builder.ts';
import { writeModel } from './onnx/model-file.ts';
import { floatTensor, sizeOf } from './onnx/tensor-data.ts';

interface Wire {
  readonly builder: GraphBuilder;
  readonly random: Random;
  /** Name of the value so far, and its shape without the batch. */
  value: string;
  shape: readonly number[];
  layer: number;
}

/** One layer of a sequential model. */
export type Layer = (wire: Wire) => void;

/** He initialization (He et al. 2015, eq. 10): normal with variance 2/fanIn. */
function he(random: Random, size: number, fanIn: number): Float32Array {
  const scale = Math.sqrt(2 / fanIn);
  return Float32Array.from({ length: size }, () => random.normal() * scale);
}

function parameter(
  wire: Wire,
  kind: string,
  dims: readonly number[],
  values: Float32Array,
): string {
  const name = `layer${wire.layer}.${kind}`;
  wire.builder.initializers.push(floatTensor(name, dims, values));
  return name;
}

/** Fully connected layer: y = xWᵀ + b. Input `[features]`. */
export function dense(units: number): Layer {
  return (wire) => {
    const [features = 0] = wire.shape;
    if (wire.shape.length !== 1) {
      throw new ShoalError(
        'invalid_argument',
        `dense layer ${wire.layer} needs a flat input, got [${wire.shape.join(', ')}]; put flatten() before it`,
      );
    }
    const weight = parameter(
      wire,
      'weight',
      [units, features],
      he(wire.random, units * features, features),
    );
    const bias = parameter(wire, 'bias', [units], new Float32Array(units));
    wire.value = wire.builder.node('Gemm', [wire.value, weight, bias], { transB: 1 });
    wire.shape = [units];
  };
}

/** Two-dimensional convolution with bias. Input `[channels, height, width]`. */
export function conv2d(
  filters: number,
  kernel: number,
  options: { stride?: number; padding?: number } = {},
): Layer {
  return (wire) => {
    const { stride = 1, padding = 0 } = options;
    const [channels = 0, height = 0, width = 0] = wire.shape;
    const fanIn = channels * kernel * kernel;
    const weight = parameter(
      wire,
      'weight',
      [filters, channels, kernel, kernel],
      he(wire.random, filters * fanIn, fanIn),
    );
    const bias = parameter(wire, 'bias', [filters], new Float32Array(filters));
    const pads = [padding, padding, padding, padding];
    wire.value = wire.builder.node('Conv', [wire.value, weight, bias], {
      kernel_shape: [kernel, kernel],
      strides: [stride, stride],
      pads,
    });
    const out = (n: number): number => Math.floor((n + 2 * padding - kernel) / stride) + 1;
    wire.shape = [filters, out(height), out(width)];
  };
}

/** Maximum over non-overlapping `size` × `size` windows. */
export function maxPool2d(size: number): Layer {
  return (wire) => {
    const [channels = 0, height = 0, width = 0] = wire.shape;
    wire.value = wire.builder.node('MaxPool', [wire.value], {
      kernel_shape: [size, size],
      strides: [size, size],
    });
    wire.shape = [channels, Math.floor(height / size), Math.floor(width / size)];
  };
}

/** max(x, 0) */
export function relu(): Layer {
  return (wire) => {
    wire.value = wire.builder.node('Relu', [wire.value]);
  };
}

/** Everything but the batch in one dimension. */
export function flatten(): Layer {
  return (wire) => {
    wire.value = wire.builder.node('Flatten', [wire.value], { axis: 1 });
    wire.shape = [sizeOf(wire.shape)];
  };
}

export interface SequentialOptions {
  /** Shape of one sample, without the batch. */
  readonly input: readonly number[];
  readonly layers: readonly Layer[];
  /** Source of the initial weights; the same stream gives the same model. */
  readonly random: Random;
}

/**
 * Builds an ONNX model from layers, with input `input` `[batch, …]` and output `output` (logits).
 *
 * @example
 * sequential({ input: [1, 28, 28], random: seededRandom(1),
 *   layers: [conv2d(8, 3), relu(), maxPool2d(2), flatten(), dense(10)] })
 */
export function sequential(options: SequentialOptions): Uint8Array {
  const builder = new GraphBuilder('');
  const value = builder.input('input', ['batch', ...options.input]);
  const wire: Wire = { builder, random: options.random, value, shape: options.input, layer: 0 };
  for (const layer of options.layers) {
    layer(wire);
    wire.layer++;
  }
  const output = builder.node('Identity', [wire.value], {}, 'output');
  builder.output(output, ['batch', ...wire.shape]);
  return writeModel(modelOf(builder.graph('sequential'), 17));
}
