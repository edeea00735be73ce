import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Estimator } from '../estimator/estimator.ts';

/** What the estimator of a task is told when it is made. */
export interface TaskEstimatorOptions {
  /** Name of the task, or `global`. */
  readonly task: string;
  /** Parameters to train; default all. */
  readonly trainable?: (parameter: string) => boolean;
}

/** Makes estimators: one class of model for all tasks. */
export type CreateEstimator = (options: TaskEstimatorOptions) => Estimator;

/** Models as bytes, for estimators that know files. Close it: its folder goes. */
export class ModelFiles {
  readonly #dir = mkdtempSync(join(tmpdir(), 'shoal-tasks-'));
  #next = 0;

  #path(): string {
    return join(this.#dir, `model-${this.#next++}.onnx`);
  }

  async load(estimator: Estimator, model: Uint8Array): Promise<void> {
    const path = this.#path();
    writeFileSync(path, model);
    await estimator.load(path);
    rmSync(path, { force: true });
  }

  async save(estimator: Estimator): Promise<Uint8Array> {
    const path = this.#path();
    await estimator.save(path);
    const bytes = readFileSync(path);
    rmSync(path, { force: true });
    return bytes;
  }

  close(): void {
    rmSync(this.#dir, { recursive: true, force: true });
  }
}
