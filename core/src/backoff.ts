import type { Random } from './random.ts';

export interface BackoffOptions {
  /** First delay in milliseconds, > 0. */
  readonly baseMs: number;
  /** Longest delay in milliseconds. */
  readonly capMs: number;
}

/**
 * Exponential back-off with full jitter: attempt k waits uniformly in [0, min(cap, base·2ᵏ)).
 * Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
 *
 * @param attempt 0 for the first retry.
 */
export function backoffMs(attempt: number, options: BackoffOptions, random: Random): number {
  const ceiling = Math.min(options.capMs, options.baseMs * 2 ** Math.min(attempt, 40));
  return random.next() * ceiling;
}
