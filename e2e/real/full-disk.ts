import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { messageOf } from '@shoal/core';
import type { Outcome } from './outcome.ts';
import { has } from './outcome.ts';

const NAME = 'a federation on a disk that is nearly full, then full, then has room again';
const NAMESPACE = ['--user', '--map-root-user', '--mount'];

/** What the federation said, in a namespace with a small disk of its own. */
async function federate(disk: string): Promise<FullDiskReport> {
  const inside = join(import.meta.dirname, 'full-disk-inside.ts');
  const script = 'mount -t tmpfs -o size=37m none "$1" && exec "$2" "$3" "$1"';
  const args = [...NAMESPACE, 'sh', '-c', script, 'sh', disk, process.execPath, inside];
  const child = spawn('unshare', args, { stdio: ['ignore', 'pipe', 'pipe'], timeout: 60_000 });
  let [said, complained] = ['', ''];
  child.stdout.on('data', (text) => (said += text));
  child.stderr.on('data', (text) => (complained += text));
  const code = await new Promise((resolve) => child.on('close', resolve));
  if (code !== 0) throw new Error(`ended with ${code}: ${complained.slice(-1_000)}`);
  return JSON.parse(said) as FullDiskReport;
}

/** What the process in the namespace tells. */
export interface FullDiskReport {
  /** Participants of every round. */
  readonly counts: readonly number[];
  /** Why updates were refused. */
  readonly reasons: readonly string[];
  /** Why the federation ended while no byte was left. */
  readonly broken: string;
  /** Whether the model is that of a federation that was never disturbed after the first round. */
  readonly same: boolean;
}

/** Updates that do not fit are refused with the reason; nothing that was accepted is lost on a full disk. */
export async function fullDisk(): Promise<Outcome[]> {
  if (!has('unshare', ...NAMESPACE, 'true'))
    return [{ name: NAME, result: 'skipped', detail: 'no namespaces can be made here (unshare)' }];
  const disk = mkdtempSync(join(tmpdir(), 'shoal-full-disk-'));
  try {
    const { counts, reasons, broken, same } = await federate(disk);
    const faults = [
      counts[0] === 2 ? '' : `round 1 had ${counts[0]} of 3 updates, 2 fit`,
      counts.slice(1).every((n) => n === 3) ? '' : `later rounds had ${counts.slice(1)}, not 3`,
      reasons.some((r) => /disk of the aggregator has \d+ MiB left/.test(r))
        ? ''
        : `no reason for the refusal: ${reasons}`,
      /ENOSPC|full/.test(broken) ? '' : `the end on a full disk said "${broken}"`,
      same ? '' : 'the model differs after going on',
    ].filter(Boolean);
    return [
      {
        name: NAME,
        result: faults.length === 0 ? 'passed' : 'failed',
        ...(faults.length > 0 ? { detail: faults.join('; ') } : {}),
      },
    ];
  } catch (error) {
    return [{ name: NAME, result: 'failed', detail: messageOf(error) }];
  } finally {
    rmSync(disk, { recursive: true, force: true });
  }
}
