import { status } from '@grpc/grpc-js';
import { type ErrorCode, isShoalError, messageOf, ShoalError } from '@shoal/core';

const STATUS_OF: Readonly<Record<ErrorCode, number>> = {
  invalid_argument: status.INVALID_ARGUMENT,
  not_found: status.NOT_FOUND,
  already_exists: status.ALREADY_EXISTS,
  conflict: status.ABORTED,
  unauthenticated: status.UNAUTHENTICATED,
  permission_denied: status.PERMISSION_DENIED,
  unavailable: status.UNAVAILABLE,
  deadline_exceeded: status.DEADLINE_EXCEEDED,
  cancelled: status.CANCELLED,
  out_of_range: status.OUT_OF_RANGE,
  resource_exhausted: status.RESOURCE_EXHAUSTED,
  data_corrupt: status.DATA_LOSS,
  unsupported: status.UNIMPLEMENTED,
  failed_precondition: status.FAILED_PRECONDITION,
  internal: status.INTERNAL,
};

const CODE_OF = new Map(Object.entries(STATUS_OF).map(([code, s]) => [s, code as ErrorCode]));

/** An error as gRPC sends it. What is not ours tells nothing of the inside. */
export function toStatus(error: unknown): { code: number; details: string } {
  if (isShoalError(error)) return { code: STATUS_OF[error.code], details: error.message };
  return { code: status.INTERNAL, details: 'the service failed inside; see its log' };
}

/** Our error for what a call ended with. */
export function fromStatus(error: unknown, doing: string): ShoalError {
  const { code, details } = error as { code?: number; details?: string };
  const known = typeof code === 'number' ? CODE_OF.get(code) : undefined;
  return new ShoalError(known ?? 'unavailable', `${doing}: ${details ?? messageOf(error)}`, {
    cause: error,
  });
}
