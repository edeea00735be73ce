import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { placeFile } from './model-store.ts';

/** Where the folder is mounted in the worker. */
const CONTAINER_DIR = '/model-hot-update';
/** Models kept beside the current one, for workers that are still loading. */
const KEPT = 2;

/** Name of a model's file: its content, so that a file never changes under a reader. */
export function hotUpdateName(digest: string, format: string): string {
  return `model-${digest.slice(7, 19)}.${format}`;
}

/**
 * Puts a new model into a job's hot update folder and points `model_config.json` at it (contract
 * §3.7). The worker that polls the file loads it between two requests.
 */
export function installHotUpdate(
  folder: string,
  model: { path: string; digest: string; format: string },
  updated: string,
): void {
  mkdirSync(folder, { recursive: true });
  const name = hotUpdateName(model.digest, model.format);
  if (!existsSync(join(folder, name))) placeFile(model.path, join(folder, name));
  const config = {
    model_config: { model_path: `${CONTAINER_DIR}/${name}`, model_update_time: updated },
  };
  const target = join(folder, 'model_config.json');
  writeFileSync(`${target}.tmp`, JSON.stringify(config));
  renameSync(`${target}.tmp`, target);
  const old = readdirSync(folder).filter((f) => f.startsWith('model-') && f !== name);
  for (const file of old.slice(0, Math.max(0, old.length - KEPT)))
    rmSync(join(folder, file), { force: true });
}

/** Takes the pointer away: a worker that starts now loads the model it was deployed with. */
export function withdrawHotUpdate(folder: string): void {
  rmSync(join(folder, 'model_config.json'), { force: true });
}
