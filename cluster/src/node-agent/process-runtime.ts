import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { delimiter, dirname } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { ShoalError } from '@shoal/core';

/** How images map to this machine: the process runtime has no registry. */
export interface ImageSource {
  /** Image name without tag, e.g. `shoal/workers`. */
  readonly image: string;
  /** Folder that stands for the image's working directory. */
  readonly workingDir: string;
  /** Folders put in front of PATH. */
  readonly path: readonly string[];
  /** Variables the image sets. */
  readonly environment?: Readonly<Record<string, string>>;
}

export interface ProcessSpec {
  readonly command: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly workingDir: string;
  readonly path: readonly string[];
  /** Whether anybody will write to its standard input; without, it is empty. */
  readonly stdin?: boolean;
}

export interface Exit {
  readonly code: number;
  readonly signal: string | undefined;
}

/** A container's process with everything it starts: one process group. */
export interface RunningProcess {
  readonly pid: number;
  readonly exited: Promise<Exit>;
  readonly stdin: Writable | undefined;
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** SIGTERM to the group, then SIGKILL when it is still there after the grace period. */
  stop(graceMs: number): Promise<Exit>;
  /** SIGKILL to the group, at once. */
  kill(): void;
}

/** Where `setpriv` is, if anywhere: it makes the kernel end a worker whose agent was killed. */
const SETPRIV = ['/usr/bin/setpriv', '/bin/setpriv'].find(
  (p) => process.platform === 'linux' && existsSync(p),
);

function killGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch {
    // the group is gone
  }
}

function groupAlive(pid: number): boolean {
  try {
    process.kill(-pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** The kernel's start time of a process; tells a pid from its later namesake. */
export function startTimeOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined;
  }
}

/** Ends what an earlier agent left running. */
export function killLeftover(pid: number, startTime: string | undefined): void {
  if (startTime !== undefined && startTimeOf(pid) === startTime) killGroup(pid, 'SIGKILL');
}

function waitForExit(child: ChildProcess): Promise<Exit> {
  return new Promise((resolve) => {
    child.once('error', () => resolve({ code: 127, signal: undefined }));
    child.once('exit', (code, signal) =>
      resolve({
        code: code ?? 128 + constants.signals[signal ?? 'SIGKILL'],
        signal: signal ?? undefined,
      }),
    );
  });
}

/** Starts a process; it begins its own session, so that the whole group can be ended together. */
export async function startProcess(spec: ProcessSpec): Promise<RunningProcess> {
  const path = [
    ...spec.path,
    dirname(process.execPath),
    process.env['PATH'] ?? '/usr/bin:/bin',
  ].join(delimiter);
  const guard = SETPRIV ? [SETPRIV, '--pdeathsig', 'KILL', '--'] : [];
  const [program = '', ...args] = [...guard, ...spec.command];
  const child = spawn(program, args, {
    cwd: spec.workingDir,
    env: {
      PATH: path,
      HOME: spec.workingDir,
      LANG: 'C.UTF-8',
      TMPDIR: '/tmp',
      ...spec.environment,
    },
    stdio: [spec.stdin ? 'pipe' : 'ignore', 'pipe', 'pipe'],
    detached: true,
  });
  const exited = waitForExit(child);
  const { stdin, stdout, stderr } = child;
  if (!stdout || !stderr) throw new Error('a process without output');
  // A process that ends before it has read everything is no failure of ours.
  stdin?.on('error', () => undefined);
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', () => resolve());
    child.once('error', (cause) =>
      reject(
        new ShoalError('failed_precondition', `exec ${spec.command[0]}: ${cause.message}`, {
          cause,
        }),
      ),
    );
  });
  const pid = child.pid ?? 0;
  return {
    pid,
    exited,
    stdin: stdin ?? undefined,
    stdout,
    stderr,
    stop: (graceMs) => stopProcess(pid, exited, graceMs),
    kill: () => killGroup(pid, 'SIGKILL'),
  };
}

async function stopProcess(pid: number, exited: Promise<Exit>, graceMs: number): Promise<Exit> {
  killGroup(pid, 'SIGTERM');
  const timer = setTimeout(() => killGroup(pid, 'SIGKILL'), graceMs);
  const exit = await exited;
  // Children of the container may outlive its first process.
  if (groupAlive(pid)) killGroup(pid, 'SIGKILL');
  clearTimeout(timer);
  return exit;
}
