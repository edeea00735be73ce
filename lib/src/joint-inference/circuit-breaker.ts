import { type Clock, isShoalError, ShoalError, systemClock } from '@shoal/core';
import type { CloudModel } from './cloud-client.ts';

export interface BreakerOptions {
  /** Failures in a row that open it, ≥ 1. Default 5. */
  readonly failures?: number;
  /** How long it stays open before one request may try, in milliseconds. Default 5,000. */
  readonly openMs?: number;
  readonly clock?: Pick<Clock, 'now'>;
}

/**
 * Keeps a cloud that does not answer from costing its deadline on every hard sample (Nygard 2007, ch. 5):
 * after some failures in a row requests fail at once; after a while one may try, and its success
 * closes the breaker again.
 */
export function withBreaker(model: CloudModel, options: BreakerOptions = {}): CloudModel {
  const { failures = 5, openMs = 5_000, clock = systemClock } = options;
  let inRow = 0;
  let openedAt: number | undefined;
  let trying = false;
  const expectClosed = (): boolean => {
    if (openedAt === undefined) return false;
    const wait = openedAt + openMs - clock.now();
    if (wait > 0 || trying)
      throw new ShoalError(
        'unavailable',
        `the cloud model failed ${inRow} times in a row; it is asked again in ${Math.max(0, Math.ceil(wait))} ms`,
      );
    trying = true;
    return true;
  };
  const guarded = async <T>(ask: () => Promise<T>): Promise<T> => {
    const isTrial = expectClosed();
    try {
      const answer = await ask();
      inRow = 0;
      openedAt = undefined;
      return answer;
    } catch (error) {
      // An answer about the sample is an answer: the cloud is there.
      if (isShoalError(error) && error.retry === 'terminal') {
        inRow = 0;
        openedAt = undefined;
        throw error;
      }
      inRow++;
      if (isTrial || inRow >= failures) openedAt = clock.now();
      throw error;
    } finally {
      if (isTrial) trying = false;
    }
  };
  return {
    infer: async (sample) => await guarded(async () => await model.infer(sample)),
    ...(model.detect
      ? {
          detect: async (sample) => await guarded(async () => (await model.detect?.(sample)) ?? []),
        }
      : {}),
  };
}
