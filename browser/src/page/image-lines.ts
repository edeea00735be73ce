/** Labelled images of a file, as the trainer takes them. */
export interface ImageSamples {
  readonly inputs: Float32Array;
  readonly labels: BigInt64Array;
  readonly shape: readonly number[];
  readonly size: number;
}

/**
 * Reads JSON lines `{"image": base64, "label": n}`, one byte a pixel, scaled to [0, 1].
 *
 * @param shape Of one image.
 * @throws Error naming the first line that is none.
 */
export function parseImages(text: string, shape: readonly number[]): ImageSamples {
  const pixels = shape.reduce((a, b) => a * b, 1);
  const lines = text.split('\n').filter((l) => l.trim() !== '');
  if (lines.length === 0) throw new Error('the file has no samples');
  const inputs = new Float32Array(lines.length * pixels);
  const labels = new BigInt64Array(lines.length);
  for (const [i, line] of lines.entries()) {
    const { bytes, label } = parseLine(line, i + 1, pixels);
    for (let p = 0; p < pixels; p++) inputs[i * pixels + p] = bytes.charCodeAt(p) / 255;
    labels[i] = BigInt(label);
  }
  return { inputs, labels, shape, size: lines.length };
}

function parseLine(line: string, at: number, pixels: number): { bytes: string; label: number } {
  let value: { image?: unknown; label?: unknown };
  try {
    value = JSON.parse(line) as typeof value;
  } catch {
    throw new Error(`line ${at} is no JSON`);
  }
  const { image, label } = value;
  if (typeof image !== 'string' || !Number.isInteger(label) || Number(label) < 0)
    throw new Error(`line ${at} needs "image", base64, and "label", a whole number from 0 on`);
  let bytes = '';
  try {
    bytes = atob(image);
  } catch {
    throw new Error(`line ${at}: the image is no base64`);
  }
  if (bytes.length !== pixels)
    throw new Error(`line ${at}: the image has ${bytes.length} bytes, wanted are ${pixels}`);
  return { bytes, label: Number(label) };
}
