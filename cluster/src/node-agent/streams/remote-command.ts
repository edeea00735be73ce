import type { Duplex, Readable, Writable } from 'node:stream';
import { isJsonObject } from '@shoal/core';
import { ChannelSocket } from './channels.ts';
import { SpdyConnection, type SpdyStream } from './spdy.ts';
import { acceptSpdy, acceptWebSocket, isWebSocket, type Upgrade } from './upgrade.ts';

/** What a client of exec or attach wants connected. */
export interface Wanted {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly tty: boolean;
}

export interface TerminalSize {
  readonly width: number;
  readonly height: number;
}

/** The streams of one `kubectl exec` or `attach`, whatever carries them. */
export interface RemoteStreams {
  readonly stdin: Readable | undefined;
  readonly stdout: Writable | undefined;
  readonly stderr: Writable | undefined;
  onResize(listener: (size: TerminalSize) => void): void;
  /** Aborts when the client has gone. */
  readonly gone: AbortSignal;
  /** Says how it ended (a Kubernetes Status) and closes the connection. */
  finish(status: object): Promise<void>;
}

const STDIN = 0;
const STDOUT = 1;
const STDERR = 2;
const ERROR = 3;
const RESIZE = 4;
/** Streams must have been opened after this time. */
const OPEN_TIMEOUT_MS = 30_000;
/** A client that does not close after the end is closed. */
const CLOSE_TIMEOUT_MS = 5_000;

export function readWanted(query: URLSearchParams): Wanted {
  const is = (name: string): boolean => query.get(name) === 'true' || query.get(name) === '1';
  const tty = is('tty');
  return { stdin: is('stdin'), stdout: is('stdout'), stderr: is('stderr') && !tty, tty };
}

function ended(writable: Writable | undefined): Promise<void> {
  if (!writable || writable.destroyed) return Promise.resolve();
  return new Promise((resolve) => {
    writable.once('close', resolve);
    writable.end(resolve);
  });
}

function sizes(source: Readable | undefined): (listener: (size: TerminalSize) => void) => void {
  return (listener) => {
    source?.on('data', (chunk: Buffer) => {
      try {
        const size: unknown = JSON.parse(chunk.toString('utf8'));
        if (!isJsonObject(size)) return;
        listener({ width: Number(size['Width']), height: Number(size['Height']) });
      } catch {
        // half a message: the next one says it again
      }
    });
  };
}

async function overWebSocket(upgrade: Upgrade, wanted: Wanted): Promise<RemoteStreams | undefined> {
  const accepted = await acceptWebSocket(upgrade, ['v5.channel.k8s.io', 'v4.channel.k8s.io']);
  if (!accepted) return undefined;
  const { socket } = accepted;
  const channels = new ChannelSocket(socket);
  const gone = new AbortController();
  socket.on('close', () => gone.abort());
  const open = (wants: boolean, id: number): Duplex | undefined =>
    wants ? channels.open(id) : undefined;
  const stdout = open(wanted.stdout, STDOUT);
  const stderr = open(wanted.stderr, STDERR);
  const error = channels.open(ERROR);
  channels.greet(wanted.stdout ? STDOUT : ERROR);
  return {
    stdin: open(wanted.stdin, STDIN),
    stdout,
    stderr,
    onResize: sizes(open(wanted.tty, RESIZE)),
    gone: gone.signal,
    finish: async (status) => {
      await Promise.all([ended(stdout), ended(stderr)]);
      error.end(JSON.stringify(status));
      await ended(error);
      channels.end();
    },
  };
}

/** Collects the streams a SPDY client opens; resolves once all that it wants are there. */
function collect(
  transport: Duplex,
  wanted: Wanted,
): Promise<{ connection: SpdyConnection; streams: Map<string, SpdyStream> }> {
  const names = ['error', 'stdin', 'stdout', 'stderr'].filter(
    (name) => name === 'error' || wanted[name as 'stdin' | 'stdout' | 'stderr'],
  );
  if (wanted.tty) names.push('resize');
  const streams = new Map<string, SpdyStream>();
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      transport.destroy();
      reject(new Error('the client did not open its streams'));
    }, OPEN_TIMEOUT_MS);
    const connection = new SpdyConnection(transport, (stream) => {
      streams.set(stream.headers.get('streamtype') ?? '', stream);
      if (!names.every((name) => streams.has(name))) return;
      clearTimeout(timer);
      resolve({ connection, streams });
    });
    void connection.closed.then(() => {
      clearTimeout(timer);
      reject(new Error('the client went away'));
    });
  });
}

async function overSpdy(upgrade: Upgrade, wanted: Wanted): Promise<RemoteStreams | undefined> {
  const transport = acceptSpdy(upgrade, ['v4.channel.k8s.io']);
  if (!transport) return undefined;
  const { connection, streams } = await collect(transport, wanted);
  const gone = new AbortController();
  void connection.closed.then(() => gone.abort());
  const stdout = wanted.stdout ? streams.get('stdout') : undefined;
  const stderr = wanted.stderr ? streams.get('stderr') : undefined;
  const error = streams.get('error');
  return {
    stdin: wanted.stdin ? streams.get('stdin') : undefined,
    stdout,
    stderr,
    onResize: sizes(streams.get('resize')),
    gone: gone.signal,
    finish: async (status) => {
      await Promise.all([ended(stdout), ended(stderr)]);
      error?.end(JSON.stringify(status));
      await ended(error);
      connection.end();
      setTimeout(() => transport.destroy(), CLOSE_TIMEOUT_MS).unref();
    },
  };
}

/** Opens the streams of exec or attach; undefined when the request was refused. */
export async function openRemoteStreams(
  upgrade: Upgrade,
  wanted: Wanted,
): Promise<RemoteStreams | undefined> {
  return isWebSocket(upgrade)
    ? await overWebSocket(upgrade, wanted)
    : await overSpdy(upgrade, wanted);
}

export const SUCCESS: object = { metadata: {}, status: 'Success' };

export function failure(message: string): object {
  return { metadata: {}, status: 'Failure', message, reason: 'InternalError', code: 500 };
}

/** The Status of a command that ended with a code. */
export function exitStatus(code: number): object {
  if (code === 0) return SUCCESS;
  return {
    metadata: {},
    status: 'Failure',
    message: `command terminated with non-zero exit code: exit status ${code}`,
    reason: 'NonZeroExitCode',
    details: { causes: [{ reason: 'ExitCode', message: String(code) }] },
  };
}
