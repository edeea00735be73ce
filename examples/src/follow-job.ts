import { ShoalError } from '@shoal/core';
import type { ClusterObject, ExampleContext } from './example.ts';
import { waitFor } from './wait.ts';

/** Status that the jobs with stages have in common. */
export interface StagedStatus {
  readonly conditions?: readonly {
    readonly stage: string;
    readonly type: string;
    readonly message?: string;
  }[];
  readonly round?: number;
  readonly deployedModel?: string;
}

/**
 * Shows the stages of a job as they go by, until something else is deployed; a stage that fails ends
 * the wait.
 *
 * @param before What is deployed now, if something is.
 */
export async function followStages(
  context: ExampleContext,
  job: { readonly kind: string; readonly name: string; readonly before?: string | undefined },
): Promise<StagedStatus> {
  let shown = '';
  const until = (object: ClusterObject): boolean => {
    const status = (object.status ?? {}) as StagedStatus;
    const last = status.conditions?.at(-1);
    const now = last ? `round ${status.round}: ${last.stage} ${last.type}` : '';
    if (now !== shown && last) context.stage(now);
    shown = now;
    if (last?.type === 'Failed')
      throw new ShoalError(
        'failed_precondition',
        `${last.stage} failed: ${last.message ?? 'no reason given'}`,
      );
    return status.deployedModel !== undefined && status.deployedModel !== job.before;
  };
  const { kind, name } = job;
  const what = 'something new to be deployed';
  const object = await waitFor(context, { kind, name, what, timeoutMs: 90_000, until });
  return (object.status ?? {}) as StagedStatus;
}

/** Waits until a Service has a worker behind it that is ready. */
export async function untilServed(context: ExampleContext, service: string): Promise<void> {
  const hasAddress = (o: ClusterObject): boolean =>
    ((o as { subsets?: { addresses?: unknown[] }[] }).subsets?.[0]?.addresses?.length ?? 0) > 0;
  await waitFor(context, {
    kind: 'Endpoints',
    name: service,
    what: 'a ready worker',
    timeoutMs: 60_000,
    until: hasAddress,
  });
}
