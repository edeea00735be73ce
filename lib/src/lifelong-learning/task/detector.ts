import { isJsonObject, type JsonObject, type Random, ShoalError } from '@shoal/core';
import type { Samples } from '../../data/samples.ts';
import {
  extractorFromJson,
  extractorToJson,
  type FeatureExtractor,
  featureRows,
  featuresOf,
  fitFeatures,
} from './features.ts';
import type { UnseenSampleRecognition } from './recognition.ts';

/** What recognizes one task's samples: the space they lie in, and how far is too far. */
export interface TaskDetector {
  readonly extractor: FeatureExtractor;
  readonly state: JsonObject;
}

export interface DetectorData {
  /** Samples the model was trained on. */
  readonly learned: Samples;
  /** Samples of the task it was not trained on. */
  readonly held: Samples;
  /** Logits of the held ones, `[size, classes]`; empty when the recognition needs none. */
  readonly logits: Float32Array;
}

/** Fits the detector of one task in a feature space of its own. */
export function fitDetector(
  recognition: UnseenSampleRecognition,
  data: DetectorData,
  random: Random,
): TaskDetector {
  const { learned, held, logits } = data;
  const extractor = fitFeatures(learned, random);
  const rowsOf = (samples: Samples): Float32Array[] => {
    const rows = featureRows(extractor, samples);
    const { width } = extractor;
    return Array.from({ length: samples.size }, (_, i) =>
      rows.subarray(i * width, (i + 1) * width),
    );
  };
  const classes = held.size > 0 ? logits.length / held.size : 0;
  const samples = rowsOf(held).map((features, i) => ({
    features,
    logits: logits.subarray(i * classes, (i + 1) * classes),
  }));
  return { extractor, state: recognition.fit({ samples, trained: rowsOf(learned) }) };
}

/** How likely a sample of the task looks at least this strange. */
export function detectorPValue(
  recognition: UnseenSampleRecognition,
  { extractor, state }: TaskDetector,
  sample: { readonly inputs: Float32Array; readonly logits: ArrayLike<number> },
): number {
  const features = featuresOf(extractor, sample.inputs);
  return recognition.pValue(state, { features, logits: sample.logits });
}

export function detectorToJson({ extractor, state }: TaskDetector): JsonObject {
  return { extractor: extractorToJson(extractor), state };
}

/** @throws ShoalError `data_corrupt` for JSON that is no detector. */
export function detectorFromJson(json: unknown): TaskDetector {
  if (!isJsonObject(json) || !isJsonObject(json['state']))
    throw new ShoalError('data_corrupt', 'this is no detector of a task');
  return { extractor: extractorFromJson(json['extractor']), state: json['state'] };
}
