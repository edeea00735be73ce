import { ShoalError } from '@shoal/core';
import { WHOLE_FORMATS } from './whole-formats.ts';

/** How a text dataset is cut into samples. */
export interface DatasetFormat {
  readonly name: 'txt' | 'csv' | 'jsonl';
  /** Lines at the top that are no samples; repeated in every file cut from the dataset. */
  readonly headerLines: 0 | 1;
}

const FORMATS: readonly DatasetFormat[] = [
  { name: 'txt', headerLines: 0 },
  { name: 'csv', headerLines: 1 },
  { name: 'jsonl', headerLines: 0 },
];

/** @throws ShoalError `unsupported` naming the formats there are. */
export function datasetFormat(name: string): DatasetFormat {
  const found = FORMATS.find((f) => f.name === name.toLowerCase());
  if (found) return found;
  throw new ShoalError(
    'unsupported',
    `spec.format: "${name}" cannot be watched; supported are ${[...FORMATS.map((f) => f.name), ...WHOLE_FORMATS].join(', ')}`,
  );
}
