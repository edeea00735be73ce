import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ShoalError, silentLogger } from '@shoal/core';
import { expect, test } from 'vitest';
import type { Estimator } from '../estimator/estimator.ts';
import { Reporter } from '../report/local-controller.ts';
import { followModel } from './hot-update.ts';

test('a model that cannot be fetched now is not refused: the next poll takes it', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'shoal-hot-'));
  const configPath = join(dir, 'model_config.json');
  writeFileSync(
    configPath,
    JSON.stringify({ model_config: { model_path: 'index.json', model_update_time: '1' } }),
  );
  const stopping = new AbortController();
  const told: string[] = [];
  const reporter = new Reporter({
    server: '',
    workerName: 'w',
    namespace: 'n',
    ownerName: 'o',
    ownerKind: 'k',
  });
  reporter.send = (info) => {
    told.push(info.status ?? '');
    return Promise.resolve();
  };
  let loads = 0;
  const nothing = (): Promise<never> => Promise.reject(new Error('unused'));
  const create = (): Estimator => ({
    load: () => {
      loads++;
      return loads < 3
        ? Promise.reject(new ShoalError('unavailable', 'the cable was cut'))
        : Promise.resolve();
    },
    save: nothing,
    train: nothing,
    evaluate: nothing,
    predict: nothing,
    close: () => Promise.resolve(),
  });
  let swaps = 0;
  await followModel({
    configPath,
    periodMs: 1,
    create,
    selfTest: () => Promise.resolve(),
    onSwap: () => swaps++,
    reporter,
    // Time passes at once; after some polls the worker ends.
    clock: {
      now: () => 0,
      monotonic: () => 0,
      sleep: () => {
        if (loads >= 3 && swaps > 0) stopping.abort();
        return Promise.resolve();
      },
    },
    logger: silentLogger,
    signal: stopping.signal,
  });
  expect([loads, swaps, told]).toEqual([3, 1, ['completed']]);
  rmSync(dir, { recursive: true });
});
