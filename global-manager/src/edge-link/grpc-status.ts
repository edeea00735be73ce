import { status } from '@grpc/grpc-js';
import { type ErrorCode, isShoalError, messageOf } from '@shoal/core';

const STATUS: Partial<Record<ErrorCode, status>> = {
  invalid_argument: status.INVALID_ARGUMENT,
  not_found: status.NOT_FOUND,
  permission_denied: status.PERMISSION_DENIED,
  unauthenticated: status.UNAUTHENTICATED,
  out_of_range: status.OUT_OF_RANGE,
  data_corrupt: status.DATA_LOSS,
  failed_precondition: status.FAILED_PRECONDITION,
  resource_exhausted: status.RESOURCE_EXHAUSTED,
  unavailable: status.UNAVAILABLE,
};

/** An error as gRPC sends it. */
export function toStatus(error: unknown): { code: status; details: string } {
  const code = isShoalError(error) ? (STATUS[error.code] ?? status.INTERNAL) : status.INTERNAL;
  return { code, details: messageOf(error) };
}
