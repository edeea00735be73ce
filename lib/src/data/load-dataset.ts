import { existsSync, statSync } from 'node:fs';
import { extname } from 'node:path';
import { ShoalError } from '@shoal/core';
import { isImageFolder, readImages } from './image-files.ts';
import { readParquet } from './parquet.ts';
import type { Samples } from './samples.ts';
import { type ReadOptions, readTrainingData, type TrainingData } from './training-data.ts';

/** Formats `loadDataset` knows, for help texts. */
export const DATASET_FORMATS =
  '.csv, .jsonl (image lines), .npz (x and y), a folder with x.npy and y.npy, .parquet, .txt (index of images), a folder of images by class, or of IDX files';

/**
 * Reads labelled samples of any format: see {@link readTrainingData}; Parquet; images in folders named
 * by their class, or listed with their class in a `.txt` index.
 *
 * @throws ShoalError naming file, row and column of what is wrong.
 */
export async function loadDataset(path: string, options: ReadOptions = {}): Promise<TrainingData> {
  if (!existsSync(path)) throw new ShoalError('not_found', `there is no dataset ${path}`);
  const images = options.shape ? { shape: options.shape } : {};
  if (statSync(path).isDirectory() && isImageFolder(path)) return await readImages(path, images);
  if (extname(path) === '.parquet') return await readParquet(path, options);
  if (extname(path) === '.txt') return await readImages(path, images);
  return readTrainingData(path, options);
}

/**
 * The samples of a classifier: targets as class indices.
 *
 * @throws ShoalError `data_corrupt` when a target is no whole number ≥ 0.
 */
export function toSamples(data: TrainingData, source: string): Samples {
  const { inputs, targets, shape, size, targetWidth } = data;
  const bad = targets.findIndex((t) => !Number.isInteger(t) || t < 0);
  if (targetWidth !== 1 || bad >= 0)
    throw new ShoalError(
      'data_corrupt',
      `${source}: the target of sample ${Math.max(0, bad) + 1} is ${targets[Math.max(0, bad)]}; a classifier needs class indices`,
    );
  return { inputs, shape, size, labels: BigInt64Array.from(targets, BigInt) };
}
