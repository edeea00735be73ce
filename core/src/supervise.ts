import { type BackoffOptions, backoffMs } from './backoff.ts';
import type { Clock } from './clock.ts';
import { messageOf } from './errors.ts';
import type { Logger } from './logger.ts';
import type { Random } from './random.ts';

export interface LoopPorts {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

/** After this long without an error a loop's back-off starts again from its base. */
const HEALTHY_MS = 60_000;

/**
 * Runs `body` again and again until the signal aborts. An error never ends the loop (a token
 * refresher that exits on its first error is a classic outage): it is logged and retried with
 * full-jitter back-off.
 */
export async function superviseLoop(
  what: string,
  body: (signal: AbortSignal) => Promise<void>,
  ports: LoopPorts,
  options: BackoffOptions & { readonly signal: AbortSignal },
): Promise<void> {
  const { signal } = options;
  let attempt = 0;
  while (!signal.aborted) {
    const startedAt = ports.clock.monotonic();
    try {
      await body(signal);
      attempt = 0;
    } catch (error) {
      if (signal.aborted) return;
      if (ports.clock.monotonic() - startedAt > HEALTHY_MS) attempt = 0;
      ports.logger.warn('loop failed, will retry', { loop: what, reason: messageOf(error) });
      const wait = backoffMs(attempt++, options, ports.random);
      await ports.clock.sleep(wait, signal).catch(() => undefined);
    }
  }
}
