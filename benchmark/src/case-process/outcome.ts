import type { MetricUnit } from '../metrics/metric.ts';
import type { CurvePoint, Measurements, ParticipantScore } from '../paradigms/observations.ts';

/** What a finished case leaves behind; everything but `measurements` and `measured` repeats. */
export interface CaseOutcome {
  /** Figures by metric; null where what the metric is made of was not observed. */
  readonly metrics: Readonly<Record<string, number | null>>;
  /** Those of them that depend on the machine and the hour. */
  readonly measured: Readonly<Record<string, number | null>>;
  readonly units: Readonly<Record<string, MetricUnit>>;
  readonly directions: Readonly<Record<string, 'higher' | 'lower'>>;
  readonly curve: readonly CurvePoint[];
  /** R[i][j]; null where there is no score. */
  readonly matrix?: readonly (readonly (number | null)[])[];
  readonly taskNames?: readonly string[];
  readonly participants: readonly ParticipantScore[];
  readonly extra: Readonly<Record<string, number>>;
  readonly samples: { readonly train: number; readonly test: number };
  readonly measurements: Measurements;
}

/** What a case process says, a line of JSON each. */
export type CaseMessage =
  | { readonly kind: 'progress'; readonly share: number; readonly text: string }
  | { readonly kind: 'done'; readonly outcome: CaseOutcome };
