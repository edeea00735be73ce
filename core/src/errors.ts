/** What the caller should do about a failure: try later, give up, or re-read and try again. */
export type Retry = 'backoff' | 'terminal' | 'conflict';

/** Every code an error of ours can carry. Closed: branch on it, never on message text. */
export const ERROR_CODES = [
  'invalid_argument',
  'not_found',
  'already_exists',
  'conflict',
  'unauthenticated',
  'permission_denied',
  'unavailable',
  'deadline_exceeded',
  'cancelled',
  'out_of_range',
  'resource_exhausted',
  'data_corrupt',
  'unsupported',
  'failed_precondition',
  'internal',
] as const;

export type ErrorCode = (typeof ERROR_CODES)[number];

const RETRY_BY_CODE: Partial<Record<ErrorCode, Retry>> = {
  conflict: 'conflict',
  unavailable: 'backoff',
  deadline_exceeded: 'backoff',
  resource_exhausted: 'backoff',
};

export interface ShoalErrorOptions {
  /** Default: what the code suggests (`unavailable` → backoff, `conflict` → conflict, else terminal). */
  readonly retry?: Retry;
  /** Facts for logs and status; never samples, weights or secrets. */
  readonly details?: Readonly<Record<string, unknown>>;
  readonly cause?: unknown;
}

/**
 * The one error class of the project. `message` is for people: it says what is wrong, where
 * (object, field, file, line) and what to do.
 */
export class ShoalError extends Error {
  override readonly name = 'ShoalError';
  readonly code: ErrorCode;
  readonly retry: Retry;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: ShoalErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.retry = options.retry ?? RETRY_BY_CODE[code] ?? 'terminal';
    this.details = options.details ?? {};
  }
}

/** True for our own errors, also across duplicate installs of this package. */
export function isShoalError(value: unknown): value is ShoalError {
  return value instanceof Error && value.name === 'ShoalError' && 'code' in value;
}

/** Message of anything thrown, for logs and conditions. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

const NODE_CODES: Readonly<Record<string, ErrorCode>> = {
  ENOENT: 'not_found',
  EEXIST: 'already_exists',
  EACCES: 'permission_denied',
  EPERM: 'permission_denied',
  ENOSPC: 'resource_exhausted',
  EMFILE: 'resource_exhausted',
  EADDRINUSE: 'failed_precondition',
  ECONNREFUSED: 'unavailable',
  ECONNRESET: 'unavailable',
  EPIPE: 'unavailable',
  ETIMEDOUT: 'deadline_exceeded',
  ABORT_ERR: 'cancelled',
};

/** The errno of a Node error (`ENOENT`, …), looking through one level of `cause`. */
export function errnoOf(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null) return undefined;
  if ('code' in error && typeof error.code === 'string') return error.code;
  return 'cause' in error && error.cause !== error ? errnoOf(error.cause) : undefined;
}

/**
 * Turns a foreign error from Node's own modules into ours, once, at the boundary.
 *
 * @param what What was being done and to what, e.g. `reading dataset /data/a.txt`.
 */
export function fromNode(error: unknown, what: string): ShoalError {
  if (isShoalError(error)) return error;
  const code = isSqliteFull(error)
    ? 'resource_exhausted'
    : (NODE_CODES[errnoOf(error) ?? ''] ?? 'internal');
  return new ShoalError(code, `${what}: ${messageOf(error)}`, { cause: error });
}

/** SQLite says that the disk is full by a number of its own. */
function isSqliteFull(error: unknown): boolean {
  const { code, errcode } = (error ?? {}) as { code?: unknown; errcode?: unknown };
  return code === 'ERR_SQLITE_ERROR' && errcode === 13;
}
