import { rfc3339 } from '@shoal/core';
import { MAX_CONDITIONS } from './schema/shared.ts';

interface AnyCondition {
  readonly type: string;
  readonly status: 'True' | 'False' | 'Unknown';
  readonly reason?: string;
  readonly message?: string;
  readonly lastTransitionTime?: string;
  readonly lastHeartbeatTime?: string;
}

/** Keeps the newest {@link MAX_CONDITIONS}; history belongs to Events and metrics. */
export function bounded<T>(conditions: readonly T[]): T[] {
  return conditions.slice(-MAX_CONDITIONS);
}

function sameClaim(a: AnyCondition, b: AnyCondition): boolean {
  return (
    a.type === b.type && a.status === b.status && a.reason === b.reason && a.message === b.message
  );
}

/**
 * Adds a condition as the newest, stamped with the time, unless it says what the newest already
 * says: reconciling twice must not write twice.
 */
export function appendCondition<T extends AnyCondition>(
  conditions: readonly T[] | undefined,
  next: T,
  nowMs: number,
): T[] {
  const list = conditions ?? [];
  const last = list.at(-1);
  if (last && sameClaim(last, next)) return [...list];
  const stamp = rfc3339(nowMs);
  return bounded([...list, { ...next, lastHeartbeatTime: stamp, lastTransitionTime: stamp }]);
}
