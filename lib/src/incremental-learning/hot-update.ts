import { readFileSync } from 'node:fs';
import { dirname, isAbsolute, join } from 'node:path';
import { type Clock, isJsonObject, isShoalError, type Logger, messageOf } from '@shoal/core';
import type { Estimator } from '../estimator/estimator.ts';
import type { Reporter } from '../report/local-controller.ts';

export interface HotUpdateOptions {
  /** `MODEL_HOT_UPDATE_CONFIG`: the file the local controller writes. */
  readonly configPath: string;
  /** `MODEL_POLL_PERIOD_SECONDS` × 1000. */
  readonly periodMs: number;
  /** Makes an estimator for a new model; the old one serves until it has passed `selfTest`. */
  readonly create: () => Estimator;
  /** Refuses a model by throwing: run a known input, compare shapes. */
  readonly selfTest: (estimator: Estimator) => Promise<void>;
  /** Called with the estimator that serves from now on. */
  readonly onSwap: (estimator: Estimator) => void;
  readonly reporter: Reporter;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}

const AWAY: ReadonlySet<string> = new Set(['unavailable', 'deadline_exceeded']);

interface Pointer {
  readonly path: string;
  readonly updated: string;
}

function readPointer(configPath: string): Pointer | undefined {
  try {
    const config: unknown = JSON.parse(readFileSync(configPath, 'utf8'));
    const model = isJsonObject(config) ? config['model_config'] : undefined;
    if (!isJsonObject(model)) return undefined;
    // A relative path is beside the file; an absolute one is as the container sees it.
    const path = String(model['model_path']);
    const real = isAbsolute(path)
      ? join(dirname(configPath), path.slice(path.lastIndexOf('/') + 1))
      : join(dirname(configPath), path);
    return { path: real, updated: String(model['model_update_time']) };
  } catch {
    return undefined; // not written yet, or half written: the next poll sees it
  }
}

async function swap(pointer: Pointer, options: HotUpdateOptions): Promise<void> {
  const next = options.create();
  try {
    await next.load(pointer.path);
    await options.selfTest(next);
  } catch (error) {
    await next.close();
    // The model is not refused: it could not be fetched. The next poll tries again.
    if (isShoalError(error) && AWAY.has(error.code)) throw error;
    options.logger.error('new model refused, the old one goes on', { reason: messageOf(error) });
    await options.reporter.send({
      kind: 'deploy',
      status: 'failed',
      ownerInfo: { reason: messageOf(error), modelUpdateTime: pointer.updated },
    });
    return;
  }
  options.onSwap(next);
  options.logger.info('model swapped', { updated: pointer.updated });
  await options.reporter.send({
    kind: 'deploy',
    status: 'completed',
    ownerInfo: { modelUpdateTime: pointer.updated },
  });
}

/** Watches for new models and swaps them in between two requests, until the signal aborts. */
export async function followModel(options: HotUpdateOptions): Promise<void> {
  const { clock, signal } = options;
  let current = '';
  while (!signal.aborted) {
    const pointer = readPointer(options.configPath);
    if (pointer && pointer.updated !== current) {
      try {
        await swap(pointer, options);
        current = pointer.updated;
      } catch (error) {
        options.logger.warn('model update not taken or not reported, will retry', {
          reason: messageOf(error),
        });
      }
    }
    await clock.sleep(options.periodMs, signal).catch(() => undefined);
  }
}
