/** What a Job asks for, defaults filled in. */
export interface JobSpec {
  readonly parallelism: number;
  /** Pods that must succeed; undefined: any one of them ends the job. */
  readonly completions: number | undefined;
  readonly backoffLimit: number;
  /** Seconds from the start after which the job fails; undefined for never. */
  readonly activeDeadlineSeconds: number | undefined;
  readonly suspend: boolean;
}

/** Where a Job is. */
export interface JobState {
  readonly active: number;
  readonly succeeded: number;
  readonly failed: number;
  /** Restarts of containers in pods that are still active. */
  readonly restarts: number;
  readonly startedMs: number | undefined;
  readonly lastFailureMs: number | undefined;
}

export type JobEnd =
  | { readonly type: 'Complete' }
  | { readonly type: 'Failed'; readonly reason: string; readonly message: string };

export interface JobPlan {
  readonly end?: JobEnd;
  readonly create: number;
  readonly remove: number;
  /** Milliseconds after which to look again. */
  readonly againMs?: number;
}

const BACKOFF_BASE_MS = 10_000;
const BACKOFF_CAP_MS = 360_000;

/** Wait before the next pod after so many failures: 10 s, 20 s, 40 s … six minutes, as in Kubernetes. */
export function podBackoffMs(failed: number): number {
  return failed === 0 ? 0 : Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** (failed - 1));
}

function endOf(spec: JobSpec, state: JobState, nowMs: number): JobEnd | undefined {
  const { completions, backoffLimit, activeDeadlineSeconds } = spec;
  const done =
    completions === undefined
      ? state.succeeded > 0 && state.active === 0
      : state.succeeded >= completions;
  if (done) return { type: 'Complete' };
  if (state.failed > backoffLimit || (backoffLimit > 0 && state.restarts >= backoffLimit))
    return {
      type: 'Failed',
      reason: 'BackoffLimitExceeded',
      message: 'Job has reached the specified backoff limit',
    };
  const started = state.startedMs;
  if (activeDeadlineSeconds === undefined || started === undefined) return undefined;
  return nowMs - started >= activeDeadlineSeconds * 1000
    ? {
        type: 'Failed',
        reason: 'DeadlineExceeded',
        message: 'Job was active longer than specified deadline',
      }
    : undefined;
}

/** What to do about a Job's pods now. */
export function planJob(spec: JobSpec, state: JobState, nowMs: number): JobPlan {
  const end = endOf(spec, state, nowMs);
  if (end) return { end, create: 0, remove: state.active };
  if (spec.suspend) return { create: 0, remove: state.active };
  // With completions no more pods than are still needed; without, none once one has succeeded.
  const left =
    spec.completions === undefined
      ? state.succeeded > 0
        ? state.active
        : spec.parallelism
      : Math.min(spec.parallelism, spec.completions - state.succeeded);
  const due = (state.lastFailureMs ?? 0) + podBackoffMs(state.failed);
  const isWaiting = state.failed > 0 && nowMs < due;
  const { activeDeadlineSeconds } = spec;
  const times = [
    ...(isWaiting ? [due - nowMs] : []),
    ...(activeDeadlineSeconds !== undefined && state.startedMs !== undefined
      ? [state.startedMs + activeDeadlineSeconds * 1000 - nowMs]
      : []),
  ];
  return {
    create: isWaiting ? 0 : Math.max(0, left - state.active),
    remove: Math.max(0, state.active - left),
    ...(times.length > 0 ? { againMs: Math.max(1, Math.min(...times)) } : {}),
  };
}
