import { readFileSync } from 'node:fs';
import { fromNode, isJsonObject, type JsonObject, ShoalError } from '@shoal/core';
import type { Samples } from './samples.ts';

/**
 * Grey images as JSON lines: `{"image": "<base64 of height·width bytes>", "label": 3}`. A line is
 * self-contained, so a growing file can be counted, split and moved without other files.
 */
export interface ImageLine {
  readonly image: string;
  readonly label: number;
}

/** What a line holds beside the label. Pixels are in [0, 1]. */
export function imageData(pixels: Float32Array): { image: string } {
  const bytes = Uint8Array.from(pixels, (p) => Math.round(Math.min(1, Math.max(0, p)) * 255));
  return { image: Buffer.from(bytes).toString('base64') };
}

/** One line, without the newline. */
export function toImageLine(pixels: Float32Array, label: number): string {
  return JSON.stringify({ ...imageData(pixels), label });
}

/**
 * Pixels in [0, 1] of a line without its label.
 *
 * @param shape `[channels, height, width]`.
 * @throws ShoalError `data_corrupt` when it holds no image of that size.
 */
export function parseImageData(data: JsonObject, shape: readonly number[]): Float32Array {
  const { image } = data;
  const bytes = Buffer.from(typeof image === 'string' ? image : '', 'base64');
  const pixels = shape.reduce((n, d) => n * d, 1);
  if (bytes.length !== pixels)
    throw new ShoalError(
      'data_corrupt',
      `the image has ${bytes.length} pixels, expected ${pixels}`,
    );
  return Float32Array.from(bytes, (b) => b / 255);
}

function parseLine(line: string, where: string, pixels: number): { bytes: Buffer; label: number } {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new ShoalError('data_corrupt', `${where}: not JSON`, { cause: error });
  }
  if (
    !isJsonObject(value) ||
    typeof value['image'] !== 'string' ||
    !Number.isInteger(value['label'])
  ) {
    throw new ShoalError(
      'data_corrupt',
      `${where}: expected {"image": "<base64>", "label": <whole number>}`,
    );
  }
  const bytes = Buffer.from(value['image'], 'base64');
  if (bytes.length !== pixels)
    throw new ShoalError(
      'data_corrupt',
      `${where}: the image has ${bytes.length} pixels, expected ${pixels}`,
    );
  return { bytes, label: Number(value['label']) };
}

/**
 * Parses image lines.
 *
 * @param shape `[channels, height, width]` of one image.
 * @param source Name of the file, for messages.
 * @throws ShoalError `data_corrupt` naming the line.
 */
export function parseImageLines(text: string, shape: readonly number[], source: string): Samples {
  const lines = text.split('\n').filter((l) => l.trim() !== '');
  const pixels = shape.reduce((n, d) => n * d, 1);
  const inputs = new Float32Array(lines.length * pixels);
  const labels = new BigInt64Array(lines.length);
  for (const [i, line] of lines.entries()) {
    const { bytes, label } = parseLine(line, `${source} line ${i + 1}`, pixels);
    for (let p = 0; p < pixels; p++) inputs[i * pixels + p] = (bytes[p] ?? 0) / 255;
    labels[i] = BigInt(label);
  }
  return { inputs, labels, shape, size: lines.length };
}

/** Reads a file of image lines. */
export function readImageLines(path: string, shape: readonly number[]): Samples {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw fromNode(error, `reading dataset ${path}`);
  }
  return parseImageLines(text, shape, path);
}
