import type { ApiObject } from '../object.ts';
import type { ChangeEvent, RevisionedStore } from '../store/revisioned-store.ts';
import type { Exchange } from './exchange.ts';
import { apiVersionOf, inVersion, type Resource, storeName } from './resource-registry.ts';
import type { Predicate } from './selectors.ts';
import { StatusError } from './status-error.ts';
import { toTable } from './table.ts';

export interface WatchRequest {
  readonly resource: Resource;
  readonly namespace: string | undefined;
  readonly filter: Predicate;
  readonly asTable: boolean;
  readonly includeObject: string;
}

type EventType = ChangeEvent['type'];

/** Watches at once; each holds a connection. */
const MAX_WATCHES = 2_000;
const BOOKMARK_MS = 30_000;
const MAX_TIMEOUT_S = 24 * 3600;
/** A consumer this far behind is told to list again rather than buffered without bound. */
const MAX_BUFFERED_BYTES = 16 * 1024 * 1024;

/** How a change looks through a filter: an object may come into view or go out of it. */
export function seenThrough(event: ChangeEvent, filter: Predicate): EventType | undefined {
  const before = event.previous !== undefined && filter(event.previous);
  const after = event.type !== 'DELETED' && filter(event.object);
  if (after) return before ? 'MODIFIED' : 'ADDED';
  return before ? 'DELETED' : undefined;
}

const texts = new WeakMap<ApiObject, string>();

/** JSON of a stored object, made once however many watchers get it. */
export function textOf(object: ApiObject): string {
  let text = texts.get(object);
  if (text === undefined) {
    text = JSON.stringify(object);
    texts.set(object, text);
  }
  return text;
}

/** One running watch: writes a line of JSON per event until the client or the timeout ends it. */
class WatchStream {
  readonly #exchange: Exchange;
  readonly #request: WatchRequest;
  #first = true;

  constructor(exchange: Exchange, request: WatchRequest) {
    this.#exchange = exchange;
    this.#request = request;
    exchange.response.writeHead(200, {
      'Content-Type': 'application/json',
      'Cache-Control': 'no-cache, private',
      'Transfer-Encoding': 'chunked',
    });
    exchange.response.flushHeaders();
  }

  event(type: EventType | 'BOOKMARK', object: ApiObject): void {
    const { resource, asTable, includeObject } = this.#request;
    const table = asTable && type !== 'BOOKMARK';
    const body = table
      ? JSON.stringify(
          toTable(resource, [object], { nowMs: Date.now(), includeObject, headers: this.#first }),
        )
      : textOf(type === 'BOOKMARK' ? object : inVersion(resource, object));
    this.#first = false;
    this.#line(`{"type":"${type}","object":${body}}\n`);
  }

  #line(text: string): void {
    const { response } = this.#exchange;
    response.write(text);
    if (response.writableLength > MAX_BUFFERED_BYTES) {
      const expired = new StatusError('Expired', 'the watch fell too far behind; list again');
      response.end(`{"type":"ERROR","object":${JSON.stringify(expired.status)}}\n`);
    }
  }

  get open(): boolean {
    return !this.#exchange.response.writableEnded && !this.#exchange.response.destroyed;
  }

  end(): void {
    this.#exchange.response.end();
  }
}

function startRevision(
  query: URLSearchParams,
  store: RevisionedStore,
): { from: number; replay: boolean } {
  const asked = query.get('resourceVersion') ?? '';
  if (asked === '' || asked === '0') return { from: store.revision, replay: true };
  return { from: Number(asked), replay: false };
}

let running = 0;

/** Serves one watch request. @throws StatusError when there are too many, or from too long ago. */
export function serveWatch(
  exchange: Exchange,
  store: RevisionedStore,
  request: WatchRequest,
): void {
  const { resource, namespace, filter } = request;
  const name = storeName(resource);
  const { from, replay } = startRevision(exchange.query, store);
  const expired = new StatusError(
    'Expired',
    `too old resource version: ${from} (${store.revision})`,
  );
  if (!Number.isSafeInteger(from))
    throw new StatusError('BadRequest', 'resourceVersion must be a number');
  if (!store.covers(from)) throw expired;
  if (running >= MAX_WATCHES) {
    const message = `there are ${running} watches already; try again later`;
    throw new StatusError('TooManyRequests', message, { retryAfterSeconds: 1 });
  }
  running++;
  exchange.response.on('close', () => running--);
  const stream = new WatchStream(exchange, request);
  if (replay) {
    for (const object of store.list(name, namespace).filter(filter)) stream.event('ADDED', object);
  }
  const stop = store.watch(from, (event) => {
    if (event.resource !== name) return;
    if (namespace !== undefined && event.object.metadata.namespace !== namespace) return;
    const type = seenThrough(event, filter);
    if (type && stream.open) stream.event(type, event.object);
  });
  keepAlive(exchange, store, { stream, stop, resource });
}

function keepAlive(
  exchange: Exchange,
  store: RevisionedStore,
  watch: { stream: WatchStream; stop: (() => void) | undefined; resource: Resource },
): void {
  const { stream, stop, resource } = watch;
  const bookmarks = exchange.query.get('allowWatchBookmarks') === 'true';
  const apiVersion = apiVersionOf(resource);
  const bookmark = setInterval(() => {
    if (!bookmarks || !stream.open) return;
    const metadata = { name: '', resourceVersion: String(store.revision), creationTimestamp: null };
    stream.event('BOOKMARK', { apiVersion, kind: resource.kind, metadata } as unknown as ApiObject);
  }, BOOKMARK_MS);
  const seconds = Number(exchange.query.get('timeoutSeconds') ?? 0);
  const timeout =
    seconds > 0
      ? setTimeout(() => stream.end(), Math.min(seconds, MAX_TIMEOUT_S) * 1000)
      : undefined;
  exchange.response.on('close', () => {
    clearInterval(bookmark);
    clearTimeout(timeout);
    stop?.();
  });
}
