import type { Readable, Writable } from 'node:stream';
import { messageOf } from '@shoal/core';
import type { ContainerRunner } from '../container-runner.ts';
import type { RunningProcess } from '../process-runtime.ts';
import {
  exitStatus,
  failure,
  openRemoteStreams,
  type RemoteStreams,
  readWanted,
  SUCCESS,
  type Wanted,
} from './remote-command.ts';
import { resizeTerminal } from './terminal.ts';
import type { Upgrade } from './upgrade.ts';

const GONE_GRACE_MS = 2_000;
/** A client of attach further behind than this is let go. */
const MAX_BEHIND_BYTES = 8 * 1024 * 1024;

/** Copies until the source ends; resolves then. A target that is gone only loses what comes. */
function copy(source: Readable, target: Writable | undefined): Promise<void> {
  if (target && !target.destroyed) source.pipe(target, { end: false });
  else source.resume();
  return new Promise((resolve) => {
    source.once('end', resolve);
    source.once('close', resolve);
    target?.once('close', () => source.resume());
  });
}

async function connect(started: RunningProcess, streams: RemoteStreams): Promise<object> {
  if (streams.stdin && started.stdin) streams.stdin.pipe(started.stdin);
  const stop = (): void => void started.stop(GONE_GRACE_MS);
  if (streams.gone.aborted) stop();
  else streams.gone.addEventListener('abort', stop, { once: true });
  const output = Promise.all([
    copy(started.stdout, streams.stdout),
    copy(started.stderr, streams.stderr),
  ]);
  const exit = await started.exited;
  streams.gone.removeEventListener('abort', stop);
  // Nobody reads its input any more: what still comes must not hold up the connection.
  streams.stdin?.unpipe();
  streams.stdin?.resume();
  // What it left running may hold its output open: it ends with the command.
  await started.stop(0);
  await output;
  return exitStatus(exit.code);
}

async function run(
  runner: ContainerRunner,
  command: readonly string[],
  call: { wanted: Wanted; streams: RemoteStreams },
): Promise<object> {
  const { wanted, streams } = call;
  try {
    const started = await runner.exec(command, wanted);
    if (wanted.tty) streams.onResize((size) => resizeTerminal(started.pid, size));
    return await connect(started, streams);
  } catch (error) {
    return failure(messageOf(error));
  }
}

/** Serves `pods/exec`: a command in a container's environment. */
export async function serveExec(
  upgrade: Upgrade,
  runner: ContainerRunner,
  query: URLSearchParams,
): Promise<void> {
  const wanted = readWanted(query);
  const streams = await openRemoteStreams(upgrade, wanted);
  if (streams)
    await streams.finish(await run(runner, query.getAll('command'), { wanted, streams }));
}

/** Serves `pods/attach`: what a container says from now on, and its input if it takes any. */
export async function serveAttach(
  upgrade: Upgrade,
  runner: ContainerRunner,
  query: URLSearchParams,
): Promise<void> {
  const streams = await openRemoteStreams(upgrade, readWanted(query));
  if (!streams) return;
  const running = runner.process;
  if (!running) return await streams.finish(failure(`container ${runner.name} is not running`));
  const { stdin } = streams;
  if (stdin && running.stdin) stdin.pipe(running.stdin, { end: runner.stdinOnce });
  const lagging = new AbortController();
  const pass = (source: Readable, target: Writable | undefined): (() => void) => {
    const onData = (chunk: Buffer): void => {
      target?.write(chunk);
      // The container does not wait for a terminal nobody reads.
      if ((target?.writableLength ?? 0) > MAX_BEHIND_BYTES) lagging.abort();
    };
    source.on('data', onData);
    return () => source.off('data', onData);
  };
  const detach = [pass(running.stdout, streams.stdout), pass(running.stderr, streams.stderr)];
  await new Promise<void>((resolve) => {
    streams.gone.addEventListener('abort', () => resolve(), { once: true });
    lagging.signal.addEventListener('abort', () => resolve(), { once: true });
    void Promise.all([running.exited, closed(running.stdout), closed(running.stderr)]).then(() =>
      resolve(),
    );
  });
  for (const stop of detach) stop();
  stdin?.unpipe();
  stdin?.resume();
  await streams.finish(SUCCESS);
}

function closed(source: Readable): Promise<void> {
  return source.readableEnded || source.destroyed
    ? Promise.resolve()
    : new Promise((resolve) => source.once('close', resolve));
}
