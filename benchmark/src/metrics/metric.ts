import type { ParadigmName } from '../config/algorithm.ts';
import type { Measurements, Observations } from '../paradigms/observations.ts';

export const UNITS = [
  'share',
  'points',
  'count',
  'bytes',
  'seconds',
  'milliseconds',
  'per second',
  'joules',
  'value',
] as const;
export type MetricUnit = (typeof UNITS)[number];

/** How a metric reads the choice of the test environment. */
export interface MetricParameters {
  /** A score that counts as reached. */
  readonly target?: number;
}

/** A figure of a case: what it is measured in, and which way is better. */
export interface Metric {
  readonly name: string;
  readonly unit: MetricUnit;
  readonly direction: 'higher' | 'lower';
  /** Paradigms it says something about; default all. */
  readonly paradigms?: readonly ParadigmName[];
  /** Whether it depends on the machine and the hour. */
  readonly isMeasured?: boolean;
  /** What has to be given beside the name. */
  readonly needsTarget?: boolean;
  /** The figure; undefined when what it is made of was not observed. */
  readonly compute: (
    observations: Observations,
    measurements: Measurements,
    parameters: MetricParameters,
  ) => number | undefined;
}

/** What a file with a metric of the user's own exports by default. */
export interface UserMetric {
  readonly unit?: MetricUnit;
  readonly direction: 'higher' | 'lower';
  readonly compute: (observations: Observations) => number | undefined;
}
