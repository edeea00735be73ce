import { type Random, seededRandom } from '@shoal/core';
import type { Samples } from '@shoal/lib';
import { DIGIT_STYLES, type Point } from './digit-strokes.ts';

/** How the world changed since the first digits were collected; all 0 for none. */
export interface Drift {
  /** Extra rotation in degrees. */
  readonly rotation?: number;
  /** Loss of contrast in [0, 1): strokes fade, paper darkens. */
  readonly fading?: number;
  /** Passes of a 3×3 blur. */
  readonly blur?: number;
  /** Change of the pen's width in pixels. */
  readonly pen?: number;
}

export interface DigitOptions {
  readonly count: number;
  readonly seed: number;
  readonly drift?: Drift;
  /** How sloppily people write, ≥ 0; 1 is usual. */
  readonly sloppiness?: number;
}

const SIDE = 28;
const PIXELS = SIDE * SIDE;

/** Shape of one digit: `[1, 28, 28]`, pixels in [0, 1], ink bright. */
export const DIGIT_SHAPE: readonly number[] = [1, SIDE, SIDE];

function squaredDistance(px: number, py: number, a: Point, b: Point): number {
  const [dx, dy] = [b[0] - a[0], b[1] - a[1]];
  const length = dx * dx + dy * dy;
  const t =
    length === 0 ? 0 : Math.min(1, Math.max(0, ((px - a[0]) * dx + (py - a[1]) * dy) / length));
  const [ex, ey] = [px - a[0] - t * dx, py - a[1] - t * dy];
  return ex * ex + ey * ey;
}

/** A random affine map with a smooth wobble (cf. Simard et al. 2003, elastic distortions). */
function distortion(random: Random, sloppiness: number, drift: Drift): (p: Point) => Point {
  const angle = ((random.normal() * 9 * sloppiness + (drift.rotation ?? 0)) * Math.PI) / 180;
  const shear = random.normal() * 0.16 * sloppiness;
  const [sx, sy] = [
    0.92 + random.normal() * 0.1 * sloppiness,
    0.92 + random.normal() * 0.08 * sloppiness,
  ];
  const [tx, ty] = [random.normal() * 0.05 * sloppiness, random.normal() * 0.04 * sloppiness];
  const [fx, fy] = [random.next() * 6.28, random.next() * 6.28];
  const wobble = 0.045 * sloppiness * (0.4 + random.next());
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  return ([x, y]) => {
    const wx = x - 0.5 + wobble * Math.sin(5 * y + fx);
    const wy = y - 0.5 + wobble * Math.sin(5 * x + fy);
    const ux = (wx + shear * wy) * sx;
    const uy = wy * sy;
    return [SIDE / 2 + 21 * (cos * ux - sin * uy + tx), SIDE / 2 + 21 * (sin * ux + cos * uy + ty)];
  };
}

/** Draws one straight piece with a soft round pen: full ink inside, fading over one pixel. */
function drawSegment(image: Float32Array, ends: readonly [Point, Point], reach: number): void {
  const [a, b] = ends;
  const x0 = Math.max(0, Math.floor(Math.min(a[0], b[0]) - reach));
  const x1 = Math.min(SIDE - 1, Math.ceil(Math.max(a[0], b[0]) + reach));
  const y0 = Math.max(0, Math.floor(Math.min(a[1], b[1]) - reach));
  const y1 = Math.min(SIDE - 1, Math.ceil(Math.max(a[1], b[1]) + reach));
  for (let y = y0; y <= y1; y++) {
    for (let x = x0; x <= x1; x++) {
      const ink = Math.min(1, Math.max(0, reach - Math.sqrt(squaredDistance(x, y, a, b))));
      image[y * SIDE + x] = Math.max(image[y * SIDE + x] ?? 0, ink);
    }
  }
}

function draw(image: Float32Array, points: readonly Point[], radius: number): void {
  for (let i = 1; i < points.length; i++) {
    const a = points[i - 1];
    const b = points[i];
    if (a && b) drawSegment(image, [a, b], radius + 1);
  }
}

/** The eight neighbours and the pixel itself. */
const NEIGHBOURS = [-SIDE - 1, -SIDE, -SIDE + 1, -1, 0, 1, SIDE - 1, SIDE, SIDE + 1];

function blurOnce(image: Float32Array): void {
  const source = image.slice();
  for (let y = 1; y < SIDE - 1; y++) {
    for (let x = 1; x < SIDE - 1; x++) {
      let sum = 0;
      for (const offset of NEIGHBOURS) sum += source[y * SIDE + x + offset] ?? 0;
      image[y * SIDE + x] = sum / 9;
    }
  }
}

function finish(image: Float32Array, random: Random, drift: Drift): void {
  for (let pass = 0; pass < (drift.blur ?? 0); pass++) blurOnce(image);
  const { fading = 0 } = drift;
  for (let i = 0; i < PIXELS; i++) {
    const noisy = (image[i] ?? 0) * (1 - fading) + fading * 0.25 + random.normal() * 0.06;
    image[i] = Math.min(1, Math.max(0, noisy));
  }
}

/** One handwritten-like digit as 784 pixels. */
export function drawDigit(
  digit: number,
  random: Random,
  options: { drift?: Drift; sloppiness?: number } = {},
): Float32Array {
  const { drift = {}, sloppiness = 1 } = options;
  const styles = DIGIT_STYLES[digit] ?? [];
  const style = styles[random.int(styles.length)] ?? [];
  const place = distortion(random, sloppiness, drift);
  const radius = Math.max(0.3, 0.9 + random.normal() * 0.3 + (drift.pen ?? 0));
  const image = new Float32Array(PIXELS);
  for (const stroke of style) {
    const jitter = (p: Point): Point => [
      p[0] + random.normal() * 0.016 * sloppiness,
      p[1] + random.normal() * 0.016 * sloppiness,
    ];
    draw(
      image,
      stroke.map((p) => place(jitter(p))),
      radius,
    );
  }
  finish(image, random, drift);
  return image;
}

/** A seeded set of handwritten-like digits, classes in random order and about equally many. */
export function generateDigits(options: DigitOptions): Samples {
  const random = seededRandom(options.seed);
  const inputs = new Float32Array(options.count * PIXELS);
  const labels = new BigInt64Array(options.count);
  for (let i = 0; i < options.count; i++) {
    const digit = random.int(10);
    inputs.set(drawDigit(digit, random, options), i * PIXELS);
    labels[i] = BigInt(digit);
  }
  return { inputs, labels, shape: DIGIT_SHAPE, size: options.count };
}
