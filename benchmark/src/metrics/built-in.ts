import { quantileSorted } from 'simple-statistics';
import type { ParadigmName } from '../config/algorithm.ts';
import type { Observations, Transfer } from '../paradigms/observations.ts';
import {
  accuracyOf,
  areaUnderCurve,
  concordance,
  macroF1,
  meanAbsoluteError,
  microF1,
} from './classification.ts';
import type { Metric, MetricUnit } from './metric.ts';

const TASKS: readonly ParadigmName[] = ['lifelonglearning', 'federatedclassincrementallearning'];
const FEDERATED: readonly ParadigmName[] = [
  'federatedlearning',
  'federatedclassincrementallearning',
];
const UPLOADING: readonly ParadigmName[] = [
  'jointinference',
  'incrementallearning',
  'lifelonglearning',
];
const COURSES: readonly ParadigmName[] = [...FEDERATED, 'incrementallearning'];
const TRAVELLING: readonly ParadigmName[] = [...COURSES, 'jointinference', 'multiedgeinference'];
/** Paradigms whose answers are probabilities. */
const SCORING: readonly ParadigmName[] = [
  ...FEDERATED,
  'singletasklearning',
  'jointinference',
  'incrementallearning',
];
const ANSWERING: readonly ParadigmName[] = ['jointinference', 'multiedgeinference'];

function ofTransfer(o: Observations, pick: (t: Transfer) => number): number | undefined {
  const value = o.transfer && pick(o.transfer);
  return value === undefined || Number.isNaN(value) ? undefined : value;
}

/** A quantile of the participants' accuracy, each counting once however many samples it has. */
function ofParticipants(o: Observations, share: number): number | undefined {
  const sorted = (o.participants ?? []).map((p) => p.accuracy).toSorted((a, b) => a - b);
  return sorted.length === 0 ? undefined : quantileSorted(sorted, share);
}

function gap(o: Observations): number | undefined {
  const accuracies = (o.participants ?? []).map((p) => p.accuracy);
  return accuracies.length === 0 ? undefined : Math.max(...accuracies) - Math.min(...accuracies);
}

function latency(o: Observations, share: number): number | undefined {
  const sorted = (o.latenciesMs ?? []).toSorted((a, b) => a - b);
  return sorted.length === 0 ? undefined : quantileSorted(sorted, share);
}

function when(
  o: Observations,
  target: number | undefined,
  pick: (point: { step: number; bytes: number; virtualSeconds: number }) => number,
): number | undefined {
  const reached = o.curve?.find((p) => p.value >= (target ?? Number.POSITIVE_INFINITY));
  return reached && pick(reached);
}

type Body = Metric['compute'];
type More = Omit<Metric, 'name' | 'unit' | 'direction' | 'compute'>;

function metric(
  name: string,
  [unit, direction]: readonly [MetricUnit, 'higher' | 'lower'],
  compute: Body,
  more: More = {},
): Metric {
  return { name, unit, direction, compute, ...more };
}

const GOOD = ['share', 'higher'] as const;
const ERROR = ['value', 'lower'] as const;
const target = { paradigms: COURSES, needsTarget: true };

/**
 * Metrics by name. Transfer and forgetting as Lopez-Paz & Ranzato 2017 and Chaudhry et al. 2018 have
 * them (see `lifelongMetrics`), which is not what Ianvs computes under the same names.
 */
export const METRICS: readonly Metric[] = [
  metric('accuracy', GOOD, (o) => o.test && accuracyOf(o.test)),
  metric('f1_macro', GOOD, (o) => o.test && macroF1(o.test)),
  metric('f1_micro', GOOD, (o) => o.test && microF1(o.test)),
  metric('auc', GOOD, (o) => o.test && areaUnderCurve(o.test), { paradigms: SCORING }),
  metric('mae', ERROR, (o) => o.test && meanAbsoluteError(o.test)),
  metric('c_index', GOOD, (o) => o.test && concordance(o.test)),
  metric('acc', GOOD, (o) => ofTransfer(o, (m) => m.accuracy), { paradigms: TASKS }),
  metric('bwt', GOOD, (o) => ofTransfer(o, (m) => m.backwardTransfer), { paradigms: TASKS }),
  metric('fwt', GOOD, (o) => ofTransfer(o, (m) => m.forwardTransfer), { paradigms: TASKS }),
  metric('forgetting', ['share', 'lower'], (o) => ofTransfer(o, (m) => m.forgetting), {
    paradigms: TASKS,
  }),
  metric(
    'samples_transfer_ratio',
    ['share', 'lower'],
    (o) =>
      o.inferences === undefined || o.uploads === undefined
        ? undefined
        : o.uploads / Math.max(1, o.inferences),
    { paradigms: UPLOADING },
  ),
  metric('bytes_up', ['bytes', 'lower'], (o) => o.bytesUp, {
    paradigms: [...TRAVELLING, 'lifelonglearning'],
  }),
  metric('bytes_down', ['bytes', 'lower'], (o) => o.bytesDown, { paradigms: TRAVELLING }),
  metric('virtual_time', ['seconds', 'lower'], (o) => o.virtualSeconds, { paradigms: TRAVELLING }),
  metric(
    'time_to_accuracy',
    ['seconds', 'lower'],
    (o, _m, p) => when(o, p.target, (at) => at.virtualSeconds),
    target,
  ),
  metric(
    'bytes_to_accuracy',
    ['bytes', 'lower'],
    (o, _m, p) => when(o, p.target, (at) => at.bytes),
    target,
  ),
  metric(
    'rounds_to_accuracy',
    ['count', 'lower'],
    (o, _m, p) => when(o, p.target, (at) => at.step),
    target,
  ),
  metric('participant_accuracy_p10', GOOD, (o) => ofParticipants(o, 0.1), {
    paradigms: ['federatedlearning'],
  }),
  metric('participant_accuracy_p50', GOOD, (o) => ofParticipants(o, 0.5), {
    paradigms: ['federatedlearning'],
  }),
  metric('participant_accuracy_p90', GOOD, (o) => ofParticipants(o, 0.9), {
    paradigms: ['federatedlearning'],
  }),
  metric('fairness_gap', ['share', 'lower'], gap, { paradigms: ['federatedlearning'] }),
  metric('latency_p50', ['milliseconds', 'lower'], (o) => latency(o, 0.5), {
    paradigms: ANSWERING,
  }),
  metric('latency_p99', ['milliseconds', 'lower'], (o) => latency(o, 0.99), {
    paradigms: ANSWERING,
  }),
  metric('throughput', ['per second', 'higher'], (o) => o.throughput, { paradigms: ANSWERING }),
  metric('unseen_recall', GOOD, (o) => o.extra?.['unseenRecall'], {
    paradigms: ['lifelonglearning'],
  }),
  metric('unseen_precision', GOOD, (o) => o.extra?.['unseenPrecision'], {
    paradigms: ['lifelonglearning'],
  }),
  metric('wall_time', ['seconds', 'lower'], (_o, m) => m.wallSeconds, { isMeasured: true }),
  metric('cpu_time', ['seconds', 'lower'], (_o, m) => m.cpuSeconds, { isMeasured: true }),
  metric('peak_memory', ['bytes', 'lower'], (_o, m) => m.peakMemoryBytes, { isMeasured: true }),
  metric('energy', ['joules', 'lower'], (_o, m) => m.energyJoules, { isMeasured: true }),
];

/** Names Ianvs has for some of them. */
export const METRIC_ALIASES: Readonly<Record<string, string>> = {
  f1: 'f1_macro',
  task_avg_acc: 'acc',
  forget_rate: 'forgetting',
  str: 'samples_transfer_ratio',
};
