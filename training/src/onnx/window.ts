import { Attributes } from './attributes.ts';
import type { NodeProto } from './onnx_pb.ts';

/** Geometry of a sliding window over the spatial axes. */
export interface Window {
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  /** Padding before the first and after the last position, per spatial axis. */
  readonly begins: readonly number[];
  readonly ends: readonly number[];
}

/** Positions a kernel covers along one axis. */
export function reachOf(window: Window, axis: number): number {
  return ((window.kernel[axis] ?? 1) - 1) * (window.dilations[axis] ?? 1) + 1;
}

interface Extent {
  readonly kernel: readonly number[];
  /** Spatial sizes before and after the window slid. */
  readonly spatial: readonly number[];
  readonly out: readonly number[];
}

/**
 * Reads strides, dilations and padding of a Conv, ConvTranspose or pooling node.
 * `auto_pad` is resolved from the sizes (ONNX Conv-11: SAME_UPPER puts the odd cell at the end).
 */
export function windowOf(node: NodeProto, extent: Extent): Window {
  const attributes = new Attributes(node);
  const n = extent.kernel.length;
  const ones = extent.kernel.map(() => 1);
  const strides = attributes.ints('strides', ones);
  const dilations = attributes.ints('dilations', ones);
  const pads = attributes.ints(
    'pads',
    [...ones, ...ones].map(() => 0),
  );
  const plain = {
    kernel: extent.kernel,
    strides,
    dilations,
    begins: pads.slice(0, n),
    ends: pads.slice(n),
  };
  const autoPad = attributes.text('auto_pad', 'NOTSET');
  if (!autoPad.startsWith('SAME')) return plain;
  const total = extent.out.map((out, i) =>
    Math.max(0, (out - 1) * (strides[i] ?? 1) + reachOf(plain, i) - (extent.spatial[i] ?? 1)),
  );
  const small = total.map((t) => t >> 1);
  const large = total.map((t, i) => t - (small[i] ?? 0));
  return autoPad === 'SAME_UPPER'
    ? { ...plain, begins: small, ends: large }
    : { ...plain, begins: large, ends: small };
}
