import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, fromNode, ShoalError } from '@shoal/core';

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errnoOf(error) === 'EPERM';
  }
}

/**
 * Takes a folder of results for this process.
 *
 * @returns A function that gives it back.
 * @throws ShoalError `failed_precondition` while another run is at work there.
 */
export function takeFolder(folder: string): () => void {
  const path = join(folder, 'run.lock');
  const write = (): void => writeFileSync(path, String(process.pid), { flag: 'wx' });
  try {
    mkdirSync(folder, { recursive: true });
    write();
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw fromNode(error, `writing ${path}`);
    const holder = Number(readFileSync(path, 'utf8'));
    if (holder > 0 && holder !== process.pid && isAlive(holder))
      throw new ShoalError(
        'failed_precondition',
        `process ${holder} is running this job in ${folder}; wait for it, or give another --workspace`,
      );
    rmSync(path, { force: true });
    write();
  }
  return () => rmSync(path, { force: true });
}
