import { type DestinationStream, pino } from 'pino';

export type LogFields = Readonly<Record<string, unknown>>;

/** Messages are constant text; what varies goes into fields. Never a sample, weight or secret. */
export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  child(fields: LogFields): Logger;
}

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

interface PinoLike {
  debug(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  error(fields: LogFields, message: string): void;
  child(fields: LogFields): PinoLike;
}

function adapt(inner: PinoLike): Logger {
  return {
    debug: (message, fields = {}) => inner.debug(fields, message),
    info: (message, fields = {}) => inner.info(fields, message),
    warn: (message, fields = {}) => inner.warn(fields, message),
    error: (message, fields = {}) => inner.error(fields, message),
    child: (fields) => adapt(inner.child(fields)),
  };
}

/**
 * A structured logger: one JSON object a line.
 *
 * @param destination Where lines go; the caller owns it (usually `process.stderr`).
 */
export function createLogger(
  options: { name: string; level?: LogLevel },
  destination: DestinationStream,
): Logger {
  const level = options.level ?? 'info';
  const settings = { name: options.name, level, base: { name: options.name } };
  return adapt(
    pino(
      {
        ...settings,
        timestamp: pino.stdTimeFunctions.isoTime,
        formatters: { level: (label) => ({ level: label }) },
        serializers: { error: pino.stdSerializers.err },
      },
      destination,
    ),
  );
}

const nothing = (): void => {};

/** Drops everything; for tests and for library users who bring no logger. */
export const silentLogger: Logger = {
  debug: nothing,
  info: nothing,
  warn: nothing,
  error: nothing,
  child: () => silentLogger,
};
