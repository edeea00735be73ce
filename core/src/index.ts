export { LEAN_ALLOCATOR } from './allocator.ts';
export { type BackoffOptions, backoffMs } from './backoff.ts';
export { type ByteStream, duplexOf } from './byte-stream.ts';
export {
  certificateDigest,
  certifyRequest,
  createAuthority,
  createCertificateRequest,
  type IssueOptions,
  issueCertificate,
  type KeyPair,
  provesPossession,
  type Subject,
  signWith,
} from './certificates.ts';
export { type Clock, FakeClock, rfc3339, systemClock } from './clock.ts';
export { compileCacheVariable } from './compile-cache.ts';
export {
  choice,
  flag,
  integer,
  readConfig,
  real,
  type Setting,
  type SettingTable,
  text,
} from './config.ts';
export { canonicalJson, type Digest, digester, digestOf, isDigest } from './digest.ts';
export { type DownloadOptions, download } from './download.ts';
export {
  ERROR_CODES,
  type ErrorCode,
  errnoOf,
  fromNode,
  isShoalError,
  messageOf,
  type Retry,
  ShoalError,
  type ShoalErrorOptions,
} from './errors.ts';
export {
  createLogger,
  LOG_LEVELS,
  type LogFields,
  type Logger,
  type LogLevel,
  silentLogger,
} from './logger.ts';
export { type Random, seededRandom } from './random.ts';
export {
  discard,
  httpSource,
  pinnedDigest,
  type RemoteContent,
  type RemoteSource,
} from './remote-source.ts';
export {
  migrate,
  type SqlDatabase,
  type SqlRow,
  type SqlStatement,
  type SqlValue,
  Statements,
} from './sql.ts';
export {
  applyDefaults,
  dropIdleNulls,
  type FieldError,
  type FieldErrorReason,
  isJsonObject,
  type JsonObject,
  prune,
  type ResolveRef,
  type StructuralSchema,
  validate,
} from './structural-schema.ts';
export { type LoopPorts, superviseLoop } from './supervise.ts';
export { toRegExp } from './text-patterns.ts';
export { type TransactionalDatabase, transaction } from './transaction.ts';
