import { type ApiObject, dig, digList, digObject, digString } from '../object.ts';
import { parseQuantity } from '../quantity.ts';

/** Resources asked for and offered, in base units (cores, bytes, counts). */
export type Amounts = Readonly<Record<string, number>>;

/** What a pod asks for: the sum of its containers, or its largest init container if that is more. */
export function requestsOf(pod: ApiObject): Amounts {
  const total: Record<string, number> = { pods: 1 };
  for (const container of digList(pod, 'spec', 'containers')) {
    for (const [name, value] of Object.entries(containerRequests(container)))
      total[name] = (total[name] ?? 0) + value;
  }
  for (const container of digList(pod, 'spec', 'initContainers')) {
    for (const [name, value] of Object.entries(containerRequests(container)))
      total[name] = Math.max(total[name] ?? 0, value);
  }
  return total;
}

function containerRequests(container: unknown): Amounts {
  const asked = {
    ...digObject(container, 'resources', 'limits'),
    ...digObject(container, 'resources', 'requests'),
  };
  return Object.fromEntries(Object.entries(asked).map(([k, v]) => [k, parseQuantity(v)]));
}

interface Term {
  readonly key: string;
  readonly operator: string;
  readonly values?: readonly string[];
}

function holds(term: Term, value: string | undefined): boolean {
  const { operator, values = [] } = term;
  switch (operator) {
    case 'In':
      return value !== undefined && values.includes(value);
    case 'NotIn':
      return value === undefined || !values.includes(value);
    case 'Exists':
      return value !== undefined;
    case 'DoesNotExist':
      return value === undefined;
    case 'Gt':
      return Number(value) > Number(values[0]);
    case 'Lt':
      return Number(value) < Number(values[0]);
    default:
      return false;
  }
}

function affinityHolds(pod: ApiObject, node: ApiObject): boolean {
  const terms = digList(
    pod,
    'spec',
    'affinity',
    'nodeAffinity',
    'requiredDuringSchedulingIgnoredDuringExecution',
    'nodeSelectorTerms',
  );
  if (terms.length === 0) return true;
  const labels = node.metadata.labels ?? {};
  return terms.some((t) => {
    const byLabel = digList(t, 'matchExpressions') as Term[];
    const byField = digList(t, 'matchFields') as Term[];
    return (
      byLabel.every((e) => holds(e, labels[e.key])) &&
      byField.every((e) => e.key === 'metadata.name' && holds(e, node.metadata.name))
    );
  });
}

interface Taint {
  readonly key: string;
  readonly value?: string;
  readonly effect: string;
}

function tolerated(taint: Taint, pod: ApiObject): boolean {
  return digList(pod, 'spec', 'tolerations').some((t) => {
    const effect = digString(t, 'effect');
    if (effect && effect !== taint.effect) return false;
    const key = digString(t, 'key');
    if (digString(t, 'operator') === 'Exists') return key === undefined || key === taint.key;
    return key === taint.key && (digString(t, 'value') ?? '') === (taint.value ?? '');
  });
}

/** Why a pod cannot go to a node, in the scheduler's words; undefined when it can. */
export function obstacle(pod: ApiObject, node: ApiObject, used: Amounts): string | undefined {
  if (dig(node, 'spec', 'unschedulable') === true) return 'node(s) were unschedulable';
  const ready = digList(node, 'status', 'conditions').find((c) => digString(c, 'type') === 'Ready');
  if (digString(ready, 'status') !== 'True') return 'node(s) were not ready';
  const labels = node.metadata.labels ?? {};
  const wanted = Object.entries(digObject(pod, 'spec', 'nodeSelector'));
  if (!wanted.every(([k, v]) => labels[k] === v) || !affinityHolds(pod, node)) {
    return "node(s) didn't match Pod's node affinity/selector";
  }
  const taints = digList(node, 'spec', 'taints') as Taint[];
  const bad = taints.find((t) => t.effect !== 'PreferNoSchedule' && !tolerated(t, pod));
  if (bad) return `node(s) had untolerated taint {${bad.key}: ${bad.value ?? ''}}`;
  const offered = digObject(node, 'status', 'allocatable');
  for (const [name, amount] of Object.entries(requestsOf(pod))) {
    if (amount > 0 && (used[name] ?? 0) + amount > parseQuantity(offered[name] ?? 0)) {
      return name === 'pods' ? 'Too many pods' : `Insufficient ${name}`;
    }
  }
  return undefined;
}

/** `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were not ready.` */
export function explain(obstacles: readonly string[]): string {
  const counts = new Map<string, number>();
  for (const o of obstacles) counts.set(o, (counts.get(o) ?? 0) + 1);
  const reasons = [...counts]
    .map(([reason, n]) => `${n} ${reason}`)
    .toSorted()
    .join(', ');
  return `0/${obstacles.length} nodes are available: ${reasons || 'no nodes are registered'}.`;
}
