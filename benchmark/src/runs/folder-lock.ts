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

/** When a process began, in the kernel’s words; empty where the system does not say. */
function startOf(pid: number): string {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // Behind the name, which may hold anything, the 20th field.
    return text.slice(text.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  } catch {
    return '';
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
  const write = (): void =>
    writeFileSync(path, `${process.pid} ${startOf(process.pid)}`, { flag: 'wx' });
  try {
    mkdirSync(folder, { recursive: true });
    write();
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw fromNode(error, `writing ${path}`);
    const [pid, start = ''] = readFileSync(path, 'utf8').split(' ');
    const holder = Number(pid);
    // A number is used again: another process of that number holds nothing.
    const isSame = start === '' || startOf(holder) === start;
    if (holder > 0 && holder !== process.pid && isAlive(holder) && isSame)
      throw new ShoalError(
        'failed_precondition',
        `process ${holder} is running this job in ${folder}; wait for it, or give another --workspace`,
      );
    rmSync(path, { force: true });
    write();
  }
  return () => rmSync(path, { force: true });
}
