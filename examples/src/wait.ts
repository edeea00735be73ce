import { ShoalError } from '@shoal/core';
import type { ClusterObject, ExampleContext } from './example.ts';

export interface WaitOptions {
  readonly kind: string;
  readonly name: string;
  /** What is waited for, for the message when it does not come. */
  readonly what: string;
  readonly timeoutMs: number;
  /** True when it is there; throw to give up at once. */
  readonly until: (object: ClusterObject) => boolean;
}

const POLL_MS = 150;

/** Waits for an object to get somewhere. @throws ShoalError `deadline_exceeded` with its last state. */
export async function waitFor(
  context: ExampleContext,
  options: WaitOptions,
): Promise<ClusterObject> {
  const deadline = Date.now() + options.timeoutMs;
  for (;;) {
    context.signal.throwIfAborted();
    const object = await context.get(options.kind, options.name);
    if (object && options.until(object)) return object;
    if (Date.now() > deadline) {
      const conditions = (object?.status as { conditions?: readonly unknown[] } | undefined)
        ?.conditions;
      throw new ShoalError(
        'deadline_exceeded',
        `${options.kind} ${options.name} did not get to "${options.what}" in ${options.timeoutMs / 1000} s; its last condition: ${JSON.stringify(conditions?.at(-1) ?? null)}`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}
