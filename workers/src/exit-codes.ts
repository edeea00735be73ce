import { type ErrorCode, isShoalError } from '@shoal/core';

/** Exit codes of workers, after BSD sysexits. */
export const EXIT = {
  done: 0,
  badConfiguration: 64,
  badData: 65,
  dependencyUnavailable: 69,
  internal: 70,
  tryAgain: 75,
} as const;

const BY_CODE: Partial<Record<ErrorCode, number>> = {
  invalid_argument: EXIT.badConfiguration,
  not_found: EXIT.badData,
  data_corrupt: EXIT.badData,
  unsupported: EXIT.badData,
  unavailable: EXIT.dependencyUnavailable,
  deadline_exceeded: EXIT.dependencyUnavailable,
  resource_exhausted: EXIT.tryAgain,
  cancelled: EXIT.tryAgain,
};

/** The exit code that tells what kind of failure ended a worker. */
export function exitCodeOf(error: unknown): number {
  return isShoalError(error) ? (BY_CODE[error.code] ?? EXIT.internal) : EXIT.internal;
}
