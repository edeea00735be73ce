import { ShoalError } from '@shoal/core';

/** A detected box: `[x1, y1, x2, y2, score, class]`, score in [0, 1], in pixels of the input. */
export type Box = readonly number[];

/** A model that finds boxes rather than a class. */
export interface Detector {
  /**
   * Boxes of each sample, the surest first; none is an answer too.
   *
   * @param inputs Row-major, `[size, …sample shape]`.
   */
  detect(inputs: Float32Array, size: number): Promise<readonly (readonly Box[])[]>;
}

/** Whether a model finds boxes. */
export function isDetector(model: object): model is Detector {
  return 'detect' in model && typeof model.detect === 'function';
}

/**
 * Boxes as they came over the wire or out of a model.
 *
 * @throws ShoalError `data_corrupt` for anything that is no list of boxes.
 */
export function expectBoxes(value: unknown, source: string): Box[] {
  const isBox = (b: unknown): b is number[] =>
    Array.isArray(b) &&
    b.length === 6 &&
    b.every((v) => typeof v === 'number' && Number.isFinite(v)) &&
    (b[4] as number) >= 0 &&
    (b[4] as number) <= 1;
  if (Array.isArray(value) && value.every(isBox)) return value;
  throw new ShoalError(
    'data_corrupt',
    `${source}: expected boxes [x1, y1, x2, y2, score, class] with a score from 0 to 1`,
  );
}

/** Overlap of two boxes: area of the intersection over that of the union. */
export function intersectionOverUnion(a: Box, b: Box): number {
  const [ax1 = 0, ay1 = 0, ax2 = 0, ay2 = 0] = a;
  const [bx1 = 0, by1 = 0, bx2 = 0, by2 = 0] = b;
  const width = Math.max(0, Math.min(ax2, bx2) - Math.max(ax1, bx1));
  const height = Math.max(0, Math.min(ay2, by2) - Math.max(ay1, by1));
  const both = width * height;
  const union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - both;
  return union > 0 ? both / union : 0;
}

/** Greedy non-maximum suppression within each class. */
export function suppress(boxes: readonly Box[], overlap: number): Box[] {
  const kept: Box[] = [];
  for (const box of boxes.toSorted((a, b) => (b[4] ?? 0) - (a[4] ?? 0)))
    if (!kept.some((k) => k[5] === box[5] && intersectionOverUnion(k, box) > overlap))
      kept.push(box);
  return kept;
}

/**
 * How far two answers agree: the share of boxes of either that the other has too (same class, overlap
 * of at least one half); 1 when both found nothing.
 */
export function boxAgreement(a: readonly Box[], b: readonly Box[]): number {
  if (a.length + b.length === 0) return 1;
  const found = (one: Box, others: readonly Box[]): boolean =>
    others.some((o) => o[5] === one[5] && intersectionOverUnion(o, one) >= 0.5);
  const matched = a.filter((x) => found(x, b)).length + b.filter((x) => found(x, a)).length;
  return matched / (a.length + b.length);
}
