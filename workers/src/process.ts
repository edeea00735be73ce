import { createLogger, type Logger, messageOf } from '@shoal/core';
import { EXIT, exitCodeOf } from './exit-codes.ts';

export interface WorkerContext {
  readonly logger: Logger;
  /** Aborted on SIGTERM and SIGINT: finish, keep what is good, and return. */
  readonly signal: AbortSignal;
}

/**
 * Runs a worker as a process: signals become an abort, the result becomes one JSON line on
 * standard output, a failure becomes a message and an exit code that means something.
 */
export async function runWorker(
  name: string,
  body: (context: WorkerContext) => Promise<unknown>,
): Promise<void> {
  const logger = createLogger({ name }, process.stderr);
  const stopping = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const)
    process.once(signal, () => stopping.abort(new Error(`stopped by ${signal}`)));
  try {
    const result = await body({ logger, signal: stopping.signal });
    process.stdout.write(`${JSON.stringify({ worker: name, result: result ?? null })}\n`);
    process.exitCode = EXIT.done;
  } catch (error) {
    if (stopping.signal.aborted) {
      logger.info('worker stopped', { reason: messageOf(stopping.signal.reason) });
      process.exitCode = EXIT.tryAgain;
      return;
    }
    logger.error('worker failed', { reason: messageOf(error) });
    process.exitCode = exitCodeOf(error);
  }
}

/** Resolves when the signal aborts: how a service waits. */
export async function untilStopped(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) =>
    signal.addEventListener('abort', () => resolve(), { once: true }),
  );
}
