import {
  appendFileSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  watch,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import type { Readable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';

const ROTATE_BYTES = 10 * 1024 * 1024;

/** Writes a container's output as lines with a time stamp (`<RFC 3339> stdout F text`), rotated at 10 MB. */
export class ContainerLog {
  readonly path: string;
  #fd: number;
  #size = 0;

  constructor(path: string) {
    this.path = path;
    mkdirSync(dirname(path), { recursive: true });
    this.#fd = openSync(path, 'a', 0o600);
  }

  /** Takes everything a stream says until it ends. */
  follow(stream: Readable, name: 'stdout' | 'stderr'): void {
    let rest = '';
    const decoder = new StringDecoder('utf8');
    stream.on('data', (chunk: Buffer) => {
      const lines = (rest + decoder.write(chunk)).split('\n');
      rest = lines.pop() ?? '';
      this.#write(lines, name);
    });
    stream.on('end', () => this.#write(rest === '' ? [] : [rest], name));
    stream.on('error', () => undefined);
  }

  #write(lines: readonly string[], name: string): void {
    if (lines.length === 0 || this.#fd < 0) return;
    const stamp = new Date().toISOString();
    const text = lines.map((l) => `${stamp} ${name} F ${l}\n`).join('');
    writeSync(this.#fd, text);
    this.#size += text.length;
    if (this.#size > ROTATE_BYTES) this.#rotate();
  }

  #rotate(): void {
    closeSync(this.#fd);
    renameSync(this.path, `${this.path}.1`);
    this.#fd = openSync(this.path, 'a', 0o600);
    this.#size = 0;
  }

  /** Adds a line of the agent's own (why a container could not start). */
  note(text: string): void {
    appendFileSync(this.path, `${new Date().toISOString()} stderr F ${text}\n`);
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }
}

export interface LogQuery {
  readonly tailLines?: number;
  readonly sinceMs?: number;
  readonly limitBytes?: number;
  readonly timestamps: boolean;
}

function render(line: string, query: LogQuery): string | undefined {
  const match = /^(\S+) (?:stdout|stderr) F (.*)$/s.exec(line);
  if (!match) return undefined;
  const [, stamp = '', text = ''] = match;
  if (query.sinceMs !== undefined && Date.parse(stamp) < query.sinceMs) return undefined;
  return query.timestamps ? `${stamp} ${text}\n` : `${text}\n`;
}

/** The log so far, as `kubectl logs` prints it. */
export function readLog(path: string, query: LogQuery): string {
  const parts = [`${path}.1`, path]
    .filter((p) => existsSync(p))
    .map((p) => readFileSync(p, 'utf8'));
  const lines = parts
    .join('')
    .split('\n')
    .slice(0, -1)
    .map((l) => render(l, query))
    .filter((l) => l !== undefined);
  const wanted =
    query.tailLines === undefined
      ? lines
      : query.tailLines === 0
        ? []
        : lines.slice(-query.tailLines);
  const text = wanted.join('');
  return query.limitBytes === undefined ? text : text.slice(0, query.limitBytes);
}

/** Sends new lines as they come, until the signal aborts or the container has ended. */
export function followLog(
  path: string,
  options: {
    query: LogQuery;
    onText: (text: string) => void;
    isRunning: () => boolean;
    signal: AbortSignal;
  },
): Promise<void> {
  let offset = existsSync(path) ? statSync(path).size : 0;
  const pump = (): void => {
    if (!existsSync(path)) return;
    const { size } = statSync(path);
    if (size < offset) offset = 0;
    if (size === offset) return;
    const text = readFileSync(path).subarray(offset, size).toString('utf8');
    const end = text.lastIndexOf('\n') + 1;
    offset += Buffer.byteLength(text.slice(0, end));
    const lines = text.slice(0, end).split('\n').slice(0, -1);
    options.onText(lines.map((l) => render(l, options.query) ?? '').join(''));
  };
  return new Promise((resolve) => {
    const watcher = watch(dirname(path), pump);
    const finish = (): void => {
      clearInterval(timer);
      watcher.close();
      pump();
      resolve();
    };
    const timer = setInterval(() => {
      pump();
      if (!options.isRunning() || options.signal.aborted) finish();
    }, 250);
    options.signal.addEventListener('abort', finish, { once: true });
  });
}
