import { spawnSync } from 'node:child_process';

export interface Outcome {
  readonly name: string;
  readonly result: 'passed' | 'failed' | 'skipped';
  readonly detail?: string;
}

export interface Run {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end. */
export function run(
  program: string,
  args: readonly string[],
  options: { env?: Record<string, string>; input?: string; timeoutMs?: number } = {},
): Run {
  const { env = {}, input, timeoutMs = 60_000 } = options;
  const done = spawnSync(program, args, {
    encoding: 'utf8',
    env: { ...process.env, ...env },
    timeout: timeoutMs,
    ...(input === undefined ? {} : { input }),
  });
  return {
    code: done.status ?? 1,
    stdout: done.stdout ?? '',
    stderr: done.stderr ?? String(done.error ?? ''),
  };
}

/** True when a program can be started. */
export function has(program: string, ...args: string[]): boolean {
  return run(program, args).code === 0;
}
