import { readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, extname, isAbsolute, join, relative, resolve } from 'node:path';
import { fromNode, messageOf, ShoalError } from '@shoal/core';
import type sharp from 'sharp';
import type { TrainingData } from './training-data.ts';

export interface ImageOptions {
  /** `[channels, height, width]`, channels 1 or 3; default grey or colour and the size of the first image. */
  readonly shape?: readonly number[];
}

/** An image and its class. */
interface LabelledFile {
  readonly path: string;
  readonly label: number;
}

const EXTENSIONS: ReadonlySet<string> = new Set([
  '.png',
  '.jpg',
  '.jpeg',
  '.webp',
  '.gif',
  '.tiff',
]);
/** Pixels of one image: a small file may unpack to a very large one. */
const MAX_PIXELS = 64 * 1024 * 1024;
const MAX_BYTES = 4 * 1024 ** 3;

/** Whether a folder holds images: in folders named by their class. */
export function isImageFolder(path: string): boolean {
  return readdirSync(path, { withFileTypes: true }).some(
    (entry) =>
      entry.isDirectory() &&
      readdirSync(join(path, entry.name)).some((f) => EXTENSIONS.has(extname(f).toLowerCase())),
  );
}

/** Files of a folder with one folder for each class; classes are numbered in the order of their names. */
function filesOfFolder(path: string): LabelledFile[] {
  const classes = readdirSync(path, { withFileTypes: true })
    .filter((e) => e.isDirectory())
    .map((e) => e.name)
    .toSorted();
  return classes.flatMap((name, label) =>
    readdirSync(join(path, name))
      .filter((f) => EXTENSIONS.has(extname(f).toLowerCase()))
      .toSorted()
      .map((f) => ({ path: join(path, name, f), label })),
  );
}

/**
 * Files of an index: lines `path label`, paths relative to the index. What leads out of its folder is
 * refused: an index must not read other files of the machine.
 */
function filesOfIndex(path: string): LabelledFile[] {
  const root = resolve(dirname(path));
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw fromNode(error, `reading dataset ${path}`);
  }
  return text
    .split(/\r?\n/)
    .map((line, i) => ({ line: line.trim(), where: `${path} line ${i + 1}` }))
    .filter(({ line }) => line !== '')
    .map(({ line, where }) => {
      const match = /^(.+?)[\s,]+(\d+)$/.exec(line);
      if (!match)
        throw new ShoalError(
          'data_corrupt',
          `${where}: expected "<image file> <class>", got "${line.slice(0, 80)}"`,
        );
      const [, name = '', label = ''] = match;
      const file = resolve(root, name);
      const way = relative(root, file);
      if (way.startsWith('..') || isAbsolute(way))
        throw new ShoalError('invalid_argument', `${where}: ${name} is outside ${root}`);
      return { path: file, label: Number(label) };
    });
}

type Sharp = typeof sharp;

async function loadSharp(): Promise<Sharp> {
  try {
    return (await import('sharp')).default;
  } catch (error) {
    throw new ShoalError(
      'unsupported',
      `images need the package sharp, which does not load here: ${messageOf(error)}`,
      { cause: error },
    );
  }
}

/** Pixels of an encoded image as channels × height × width in [0, 1]. */
async function decode(
  bytes: Buffer,
  shape: readonly number[],
  at: { readonly decoder: Sharp; readonly name: string },
): Promise<Float32Array> {
  const [channels = 1, height = 1, width = 1] = shape;
  try {
    const image = at
      .decoder(bytes, { limitInputPixels: MAX_PIXELS, failOn: 'error' })
      .removeAlpha()
      .toColourspace(channels === 1 ? 'b-w' : 'srgb')
      .resize({ width, height, fit: 'fill' });
    const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
    const pixels = new Float32Array(channels * height * width);
    const plane = height * width;
    for (let p = 0; p < plane; p++)
      for (let c = 0; c < channels; c++)
        pixels[c * plane + p] =
          (data[p * info.channels + Math.min(c, info.channels - 1)] ?? 0) / 255;
    return pixels;
  } catch (error) {
    throw new ShoalError('data_corrupt', `${at.name} is not an image: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

async function shapeOf(bytes: Buffer, at: { decoder: Sharp; name: string }): Promise<number[]> {
  try {
    const { channels, height, width } = await at
      .decoder(bytes, { limitInputPixels: MAX_PIXELS })
      .metadata();
    return [channels < 3 ? 1 : 3, height, width];
  } catch (error) {
    throw new ShoalError('data_corrupt', `${at.name} is not an image: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** An encoded image, its name for messages, and its class. */
export interface EncodedImage {
  readonly read: () => Buffer;
  readonly name: string;
  readonly label: number;
}

/**
 * Decodes images into samples.
 *
 * @throws ShoalError `data_corrupt` naming the image; `resource_exhausted` before memory is taken.
 */
export async function decodeImages(
  images: readonly EncodedImage[],
  options: ImageOptions,
  source: string,
): Promise<TrainingData> {
  const [first] = images;
  if (!first) throw new ShoalError('not_found', `${source} has no images`);
  const decoder = await loadSharp();
  const shape = options.shape ?? (await shapeOf(first.read(), { decoder, name: first.name }));
  if (shape.length !== 3 || ![1, 3].includes(shape[0] ?? 0))
    throw new ShoalError(
      'invalid_argument',
      `images have a shape [channels, height, width] with 1 or 3 channels, got [${shape.join(', ')}]`,
    );
  const length = shape.reduce((n, d) => n * d, 1);
  if (images.length * length * 4 > MAX_BYTES)
    throw new ShoalError(
      'resource_exhausted',
      `${images.length} images of [${shape.join(', ')}] need more than ${MAX_BYTES} bytes; give a smaller shape`,
    );
  const inputs = new Float32Array(images.length * length);
  const targets = new Float32Array(images.length);
  for (const [i, { read, name, label }] of images.entries()) {
    inputs.set(await decode(read(), shape, { decoder, name }), i * length);
    targets[i] = label;
  }
  return { inputs, shape, targets, targetWidth: 1, size: images.length };
}

/** Images of a folder with a folder for each class, or of an index file (`.txt`: `path label`). */
export async function readImages(path: string, options: ImageOptions): Promise<TrainingData> {
  const files = extname(path) === '.txt' ? filesOfIndex(path) : filesOfFolder(path);
  const read = (file: string): Buffer => {
    try {
      return readFileSync(file);
    } catch (error) {
      throw fromNode(error, `reading image ${file}`);
    }
  };
  return await decodeImages(
    files.map((f) => ({
      read: () => read(f.path),
      name: join(basename(dirname(f.path)), basename(f.path)),
      label: f.label,
    })),
    options,
    path,
  );
}
