import { type ApiObject, dig, digList, digNumber, digString } from '../object.ts';
import { parseQuantity } from '../quantity.ts';

/**
 * How many replicas a HorizontalPodAutoscaler wants.
 * Source: Kubernetes documentation, "Horizontal Pod Autoscaling", algorithm details.
 */
const TOLERANCE = 0.1;
const DOWN_WINDOW_S = 300;
/** How fast it goes without policies of its own: up twice as many or four more, down at once. */
const DEFAULT_POLICIES: Readonly<Record<Direction, readonly Policy[]>> = {
  scaleUp: [
    { type: 'Percent', value: 100, periodSeconds: 15 },
    { type: 'Pods', value: 4, periodSeconds: 15 },
  ],
  scaleDown: [{ type: 'Percent', value: 100, periodSeconds: 15 }],
};

type Direction = 'scaleUp' | 'scaleDown';

interface Policy {
  readonly type: string;
  readonly value: number;
  readonly periodSeconds: number;
}

/** Use of one pod: cores and bytes; undefined while nobody knows. */
export interface PodUse {
  readonly pod: ApiObject;
  readonly cpu: number | undefined;
  readonly memory: number | undefined;
}

/** One metric of an autoscaler, read. */
export interface MetricReading {
  /** The replicas it asks for. */
  readonly replicas: number;
  /** As it stands in `status.currentMetrics`. */
  readonly current: object;
}

/** What an autoscaler cannot do, in its own words. */
export interface MetricFault {
  readonly reason: string;
  readonly message: string;
}

export function isFault(reading: MetricReading | MetricFault): reading is MetricFault {
  return 'reason' in reading;
}

function requestOf(pod: ApiObject, resource: 'cpu' | 'memory'): number | undefined {
  const containers = digList(pod, 'spec', 'containers');
  const asked = containers.map((c) => {
    const value =
      dig(c, 'resources', 'requests', resource) ?? dig(c, 'resources', 'limits', resource);
    return value === undefined ? undefined : parseQuantity(value);
  });
  return asked.every((a) => a !== undefined) ? asked.reduce((sum, a) => sum + a, 0) : undefined;
}

function quantityText(resource: 'cpu' | 'memory', value: number): string {
  return resource === 'cpu' ? `${Math.round(value * 1000)}m` : `${Math.round(value / 1024)}Ki`;
}

/**
 * Reads one `spec.metrics` entry.
 *
 * @param replicas The replicas there are now.
 */
export function readMetric(
  metric: unknown,
  uses: readonly PodUse[],
  replicas: number,
): MetricReading | MetricFault {
  const name = digString(metric, 'resource', 'name');
  if (digString(metric, 'type') !== 'Resource' || (name !== 'cpu' && name !== 'memory')) {
    const type = digString(metric, 'type') ?? '';
    const message = `metrics of type ${type} ${name ?? ''} are not known here: this cluster scales by cpu and memory`;
    return { reason: `FailedGet${type}Metric`, message };
  }
  const known = uses.flatMap(({ pod, [name]: value }) =>
    value === undefined ? [] : [{ pod, value }],
  );
  if (known.length === 0) {
    const message = `failed to get ${name} utilization: no metrics returned from resource metrics API`;
    return { reason: 'FailedGetResourceMetric', message };
  }
  const target = dig(metric, 'resource', 'target');
  const percent = digNumber(target, 'averageUtilization');
  const mean = known.reduce((sum, { value }) => sum + value, 0) / known.length;
  const current = { averageValue: quantityText(name, mean) };
  if (percent === undefined) {
    const wanted = parseQuantity(dig(target, 'averageValue'));
    if (!(wanted > 0)) return invalidTarget(name);
    return {
      replicas: scaled(replicas, mean / wanted, { known: known.length, all: uses.length }),
      current: { type: 'Resource', resource: { name, current } },
    };
  }
  const requests = known.map(({ pod }) => requestOf(pod, name));
  const lacking = known.find((_, i) => requests[i] === undefined);
  if (lacking) {
    const message = `failed to get ${name} utilization: missing request for ${name} in pod ${lacking.pod.metadata.name}`;
    return { reason: 'FailedGetResourceMetric', message };
  }
  const asked = requests.reduce<number>((sum, r) => sum + (r ?? 0), 0) / known.length;
  if (!(asked > 0) || !(percent > 0)) return invalidTarget(name);
  const use = Math.round((mean / asked) * 100);
  return {
    replicas: scaled(replicas, use / percent, { known: known.length, all: uses.length }),
    current: {
      type: 'Resource',
      resource: { name, current: { ...current, averageUtilization: use } },
    },
  };
}

function invalidTarget(name: string): MetricFault {
  const message = `failed to get ${name} utilization: request and target must be above zero`;
  return { reason: 'FailedGetResourceMetric', message };
}

/** Pods nobody knows anything of count as idle on the way up and as fully used on the way down. */
function scaled(replicas: number, ratio: number, pods: { known: number; all: number }): number {
  if (Math.abs(ratio - 1) <= TOLERANCE) return replicas;
  const missing = pods.all - pods.known;
  if (missing === 0) return Math.ceil(pods.known * ratio);
  const assumed = ratio < 1 ? 1 : 0;
  const careful = (ratio * pods.known + assumed * missing) / pods.all;
  if (Math.abs(careful - 1) <= TOLERANCE || careful < 1 !== ratio < 1) return replicas;
  return Math.ceil(careful * pods.all);
}

/** A recommendation of the past. */
export interface Recommendation {
  readonly at: number;
  readonly replicas: number;
}

export interface Bounded {
  readonly replicas: number;
  /** What kept it from what the metrics ask for; undefined when nothing did. */
  readonly limited: MetricFault | undefined;
}

/** A change of the replicas, by this autoscaler, in the past. */
export interface Resize {
  readonly at: number;
  /** Replicas more; negative: fewer. */
  readonly by: number;
}

function policiesOf(hpa: ApiObject, direction: Direction): readonly Policy[] {
  const given = digList(hpa, 'spec', 'behavior', direction, 'policies').map((p) => ({
    type: digString(p, 'type') ?? '',
    value: digNumber(p, 'value') ?? 0,
    periodSeconds: digNumber(p, 'periodSeconds') ?? 0,
  }));
  return given.length > 0 ? given : DEFAULT_POLICIES[direction];
}

/** The furthest it may go in one direction now, by its policies. */
function furthest(
  hpa: ApiObject,
  direction: Direction,
  scale: { readonly current: number; readonly resizes: readonly Resize[]; readonly now: number },
): number {
  const { current, resizes, now } = scale;
  const select = digString(hpa, 'spec', 'behavior', direction, 'selectPolicy') ?? 'Max';
  if (select === 'Disabled') return current;
  const sign = direction === 'scaleUp' ? 1 : -1;
  const limits = policiesOf(hpa, direction).map(({ type, value, periodSeconds }) => {
    const done = resizes
      .filter((r) => now - r.at < periodSeconds * 1000 && Math.sign(r.by) === sign)
      .reduce((sum, r) => sum + r.by, 0);
    const start = current - done;
    if (type === 'Pods') return start + sign * value;
    const scaledBy = start * (1 + (sign * value) / 100);
    return sign > 0 ? Math.ceil(scaledBy) : Math.trunc(scaledBy);
  });
  const most = sign > 0 === (select === 'Max');
  return most ? Math.max(...limits) : Math.min(...limits);
}

function windowMs(hpa: ApiObject, direction: Direction, fallback: number): number {
  const given = digNumber(hpa, 'spec', 'behavior', direction, 'stabilizationWindowSeconds');
  return (given ?? fallback) * 1000;
}

/**
 * Keeps what the metrics ask for within the autoscaler's bounds: not below any recommendation of
 * the last five minutes, not up too fast, between minimum and maximum.
 *
 * @param scale What there is, what the metrics ask for, recommendations until now (this one
 *   included), and what it changed before.
 */
export function bound(
  hpa: ApiObject,
  scale: {
    readonly current: number;
    readonly desired: number;
    readonly past: readonly Recommendation[];
    readonly resizes: readonly Resize[];
  },
  now: number,
): Bounded {
  const { past, resizes } = scale;
  const within = (ms: number): number[] =>
    past.filter((r) => now - r.at <= ms).map((r) => r.replicas);
  const floor = Math.max(...within(windowMs(hpa, 'scaleDown', DOWN_WINDOW_S)), scale.desired);
  const ceiling = Math.min(...within(windowMs(hpa, 'scaleUp', 0)), scale.desired);
  const { current } = scale;
  const stable = Math.max(Math.min(current, floor), ceiling);
  const min = digNumber(hpa, 'spec', 'minReplicas') ?? 1;
  const max = digNumber(hpa, 'spec', 'maxReplicas') ?? min;
  const at = { current, resizes, now };
  const fastest = Math.max(current, furthest(hpa, 'scaleUp', at));
  const slowest = Math.min(current, furthest(hpa, 'scaleDown', at));
  const paced = Math.max(slowest, Math.min(fastest, stable));
  const replicas = Math.max(min, Math.min(max, paced));
  return { replicas, limited: limitOf(stable, { min, max, fastest, slowest }) };
}

function limitOf(
  wanted: number,
  { min, max, fastest, slowest }: { min: number; max: number; fastest: number; slowest: number },
): MetricFault | undefined {
  if (wanted < min)
    return {
      reason: 'TooFewReplicas',
      message: 'the desired replica count is less than the minimum replica count',
    };
  if (wanted > max)
    return {
      reason: 'TooManyReplicas',
      message: 'the desired replica count is more than the maximum replica count',
    };
  if (wanted > fastest)
    return {
      reason: 'ScaleUpLimit',
      message: 'the desired replica count is increasing faster than the maximum scale rate',
    };
  if (wanted < slowest)
    return {
      reason: 'ScaleDownLimit',
      message: 'the desired replica count is decreasing faster than the maximum scale rate',
    };
  return undefined;
}
