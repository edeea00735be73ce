import { execFile } from 'node:child_process';
import { existsSync, readFileSync, readlinkSync } from 'node:fs';
import { ShoalError } from '@shoal/core';
import type { ProcessSpec, RunningProcess } from '../process-runtime.ts';
import type { TerminalSize } from './remote-command.ts';

/** Node has no pseudo-terminals; `script` of util-linux makes one around a command. */
const SCRIPT = '/usr/bin/script';
const RETRY_MS = 100;
const TRIES = 20;

function quoted(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

/** The same command inside a terminal of its own. @throws ShoalError where there are no terminals. */
export function underTerminal(spec: ProcessSpec): ProcessSpec {
  if (process.platform !== 'linux' || !existsSync(SCRIPT)) {
    throw new ShoalError(
      'unsupported',
      `this node has no terminals (${SCRIPT} of util-linux is missing); leave out --tty`,
    );
  }
  const line = spec.command.map(quoted).join(' ');
  return {
    ...spec,
    command: [SCRIPT, '--quiet', '--return', '--flush', '--command', line, '/dev/null'],
    environment: { TERM: 'xterm', ...spec.environment, SHELL: '/bin/sh' },
  };
}

/** Processes that `script` started: leaders of sessions of their own. */
function insideOf(pid: number): number[] {
  try {
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim();
    return children === '' ? [] : children.split(' ').map(Number);
  } catch {
    return [];
  }
}

/** A process in a terminal: what runs inside ends with it, also what ignores the hang-up. */
export function withTerminal(process_: RunningProcess): RunningProcess {
  const { pid } = process_;
  const sweep = (sessions: readonly number[]): void => {
    for (const session of sessions) {
      try {
        process.kill(-session, 'SIGKILL');
      } catch {
        // it has ended
      }
    }
  };
  return {
    ...process_,
    stop: async (graceMs) => {
      const inside = insideOf(pid);
      const exit = await process_.stop(graceMs);
      sweep(inside);
      return exit;
    },
    kill: () => {
      const inside = insideOf(pid);
      process_.kill();
      sweep(inside);
    },
  };
}

/** The terminal a process started by `script` sits at. */
function terminalOf(pid: number): string | undefined {
  try {
    const [child] = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ');
    const terminal = readlinkSync(`/proc/${child}/fd/0`);
    return terminal.startsWith('/dev/pts/') ? terminal : undefined;
  } catch {
    return undefined;
  }
}

/** Tells the terminal of a command how large the window is; soon after its start it may take a while. */
export function resizeTerminal(pid: number, size: TerminalSize, tries: number = TRIES): void {
  const { width, height } = size;
  if (!Number.isInteger(width) || !Number.isInteger(height) || tries === 0) return;
  const terminal = terminalOf(pid);
  if (terminal === undefined) {
    setTimeout(() => resizeTerminal(pid, size, tries - 1), RETRY_MS).unref();
    return;
  }
  const args = ['-F', terminal, 'cols', String(width), 'rows', String(height)];
  execFile('stty', args, () => undefined);
}
