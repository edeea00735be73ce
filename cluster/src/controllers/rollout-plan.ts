import { digNumber, digString, scalarText } from '../object.ts';

/** A ReplicaSet as a rollout sees it. */
export interface SetSize {
  /** Pods asked for. */
  readonly replicas: number;
  /** Pods that are there. */
  readonly pods: number;
  /** Pods that serve; never counted higher than what is asked for (status lags behind). */
  readonly available: number;
}

export interface Strategy {
  readonly recreate: boolean;
  /** Pods allowed above the wanted number. */
  readonly maxSurge: number;
  /** Pods allowed to be missing from the wanted number. */
  readonly maxUnavailable: number;
}

/** Replicas each set should have now: the current one, then the old ones in order. */
export interface RolloutPlan {
  readonly current: number;
  readonly old: readonly number[];
}

/** `25%` of the wanted replicas, or a plain number. */
function share(value: unknown, of: number, round: (n: number) => number): number {
  const text = scalarText(value) || '25%';
  return text.endsWith('%') ? round((Number.parseFloat(text) / 100) * of) : Number(text);
}

/** Reads a Deployment's strategy; a rollout that could never move may miss one pod. */
export function strategyOf(deployment: unknown, wanted: number): Strategy {
  const recreate = digString(deployment, 'spec', 'strategy', 'type') === 'Recreate';
  const rolling = ['spec', 'strategy', 'rollingUpdate'] as const;
  const at = (field: string): unknown =>
    digNumber(deployment, ...rolling, field) ?? digString(deployment, ...rolling, field);
  const maxSurge = share(at('maxSurge'), wanted, Math.ceil);
  const maxUnavailable = share(at('maxUnavailable'), wanted, Math.floor);
  return {
    recreate,
    maxSurge,
    maxUnavailable: maxSurge === 0 && maxUnavailable === 0 ? 1 : maxUnavailable,
  };
}

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}

/**
 * One step of a rollout, after the Deployment controller of Kubernetes: grow the new set within
 * maxSurge, then shrink old ones, those that do not serve first, so that at least
 * `wanted − maxUnavailable` pods serve throughout.
 */
export function planRollout(
  wanted: number,
  strategy: Strategy,
  sets: { current: SetSize; old: readonly SetSize[] },
): RolloutPlan {
  const { current, old } = sets;
  if (strategy.recreate) {
    const gone = old.every((s) => s.pods === 0 && s.replicas === 0);
    return { current: gone ? wanted : Math.min(current.replicas, wanted), old: old.map(() => 0) };
  }
  const total = current.replicas + sum(old.map((s) => s.replicas));
  const room = Math.max(0, wanted + strategy.maxSurge - total);
  const grown = Math.min(wanted, current.replicas + room);
  const minAvailable = wanted - strategy.maxUnavailable;
  const serving = (s: SetSize): number => Math.min(s.available, s.replicas);
  const notServing = grown - Math.min(serving(current), grown);
  let budget = Math.max(0, grown + sum(old.map((s) => s.replicas)) - minAvailable - notServing);
  const cleaned = old.map((s) => {
    const cut = Math.min(budget, s.replicas - serving(s));
    budget -= cut;
    return s.replicas - cut;
  });
  let spare = Math.max(0, Math.min(serving(current), grown) + sum(old.map(serving)) - minAvailable);
  const shrunk = cleaned.map((replicas) => {
    const cut = Math.min(replicas, spare, budget);
    spare -= cut;
    budget -= cut;
    return replicas - cut;
  });
  return { current: grown, old: shrunk };
}
