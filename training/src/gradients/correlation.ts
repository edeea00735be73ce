import { type Window } from '../onnx/window.ts';
import type { GradientContext } from './gradient.ts';

/**
 * One cross-correlation y = w * x, seen from whichever operator it comes from: for Conv `small` is
 * y and `large` is x, for ConvTranspose the roles are swapped.
 */
export interface Correlation {
  readonly batch: number;
  readonly groups: number;
  /** Channels of the large and the small side, over all groups. */
  readonly largeChannels: number;
  readonly smallChannels: number;
  readonly large: readonly number[];
  readonly small: readonly number[];
  readonly window: Window;
}

/** Every cell of a kernel, row-major, as coordinates. */
export function cellsOf(kernel: readonly number[]): number[][] {
  return kernel.reduce<number[][]>(
    (cells, size) => cells.flatMap((c) => Array.from({ length: size }, (_, k) => [...c, k])),
    [[]],
  );
}

/** Axes of the spatial dimensions. */
export function spatialAxes(c: Correlation): number[] {
  return c.large.map((_, i) => i + 2);
}

/** The large side with its padding made explicit, as the kernel slides over it. */
export function padded(context: GradientContext, large: string, { window }: Correlation): string {
  if ([...window.begins, ...window.ends].every((p) => p === 0)) return large;
  const { builder } = context;
  const pads = [0, 0, ...window.begins, 0, 0, ...window.ends];
  return builder.node('Pad', [large, builder.ints(pads)]);
}

/** What one cell of the kernel sees of the padded large side: `[batch, channels, …small]`. */
export function seenBy(
  context: GradientContext,
  source: string,
  at: { readonly cell: readonly number[]; readonly c: Correlation },
): string {
  const { builder } = context;
  const { window, small, large } = at.c;
  const starts = at.cell.map((k, i) => k * (window.dilations[i] ?? 1));
  const stops = starts.map((s, i) => s + ((small[i] ?? 1) - 1) * (window.strides[i] ?? 1) + 1);
  const whole =
    starts.every((s) => s === 0) &&
    window.strides.every((s) => s === 1) &&
    stops.every((s, i) => s === (large[i] ?? 0) + (window.begins[i] ?? 0) + (window.ends[i] ?? 0));
  if (whole) return source;
  return builder.node('Slice', [
    source,
    builder.ints(starts),
    builder.ints(stops),
    builder.ints(spatialAxes(at.c)),
    builder.ints(window.strides),
  ]);
}

/** The two sides of a correlation, as values of the graph. */
export interface Sides {
  readonly large: string;
  readonly small: string;
  readonly c: Correlation;
}
