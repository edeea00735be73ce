import { create, type MessageInitShape } from '@bufbuild/protobuf';
import {
  type BlobChunk,
  type CloudFrame,
  CloudFrameSchema,
  type EdgeFrame,
  type NodeObject,
  nodeNamespace,
  nodeRecordName,
  REFUSED_PART,
  type Refusal,
} from '@shoal/api';
import { type Clock, isShoalError, messageOf, ShoalError } from '@shoal/core';
import type { Connection, EdgeTransport, SampleUpload } from '../transport.ts';
import type { KubeEvent, KubeObject, NodeKubeApi } from './kube-client.ts';
import { type SeenHold, SessionLease } from './session-lease.ts';

type FrameOf<C extends NonNullable<EdgeFrame['frame']['case']>> = Extract<
  EdgeFrame['frame'],
  { case: C }
>['value'];
type Told = NonNullable<MessageInitShape<typeof CloudFrameSchema>['frame']>;
type Bulk = Pick<EdgeTransport, 'getBlob' | 'putBlob' | 'statBlob' | 'putSamples' | 'close'>;

export interface KubeTransportOptions {
  readonly api: NodeKubeApi;
  readonly node: string;
  readonly clock: Clock;
  /** The way for models and samples; without one they wait. Objects are no place for them. */
  readonly bulk?: Bulk;
}

/** What the edge may be told at once. */
const PAGE_ITEMS = 256;
const PAGE_BYTES = 256 * 1024;
const RENEW_MS = 15_000;
const WATCH_PAUSE_MS = 1_000;
const MAX_ERROR = 500;

type Refused = Pick<
  FrameOf<'record'>,
  'stream' | 'seq' | 'first' | 'key' | 'idempotencyKey' | 'body'
>;
type Item = NonNullable<ReturnType<typeof batchItem>>;

function batchItem(object: NodeObject, op: 'put' | 'keep' | 'delete', rev: number) {
  const { kind, namespace = '', name, uid, digest, body } = object.spec;
  return {
    kind,
    namespace,
    name,
    uid,
    op,
    rev: BigInt(rev),
    version: object.metadata.resourceVersion ?? '',
    digest: op === 'delete' ? '' : digest,
    body: op === 'put' ? Buffer.from(body) : Buffer.alloc(0),
  };
}

function keyOf(of: { kind: string; namespace?: string; name: string }): string {
  return `${of.kind}/${of.namespace ?? ''}/${of.name}`;
}

/**
 * EdgeLink without a global manager in reach: the node’s objects by list and watch at a Kubernetes API
 * server, its records as objects there. Every session lists anew and compares digests with what the
 * edge holds; a watch that has missed something ends the session.
 */
export class KubeTransport implements EdgeTransport {
  readonly #options: KubeTransportOptions;
  /** What one session leaves to the next. */
  readonly #memory: { hold?: SeenHold } = {};

  constructor(options: KubeTransportOptions) {
    this.#options = options;
  }

  connect(onFrame: (frame: CloudFrame) => void): Connection {
    const session = new KubeSession(this.#options, onFrame, this.#memory);
    return {
      send: (frame) => session.receive(frame),
      closed: session.closed,
      close: () => session.end(undefined),
      abandon: () => session.end(undefined),
    };
  }

  get #bulk(): Bulk {
    const { bulk } = this.#options;
    if (!bulk)
      throw new ShoalError(
        'unavailable',
        'models and samples do not travel through the API server; set GM_ADDRESS, or keep models in S3',
      );
    return bulk;
  }

  getBlob(digest: string, offset: number): AsyncIterable<BlobChunk> {
    return this.#bulk.getBlob(digest, offset);
  }

  async putBlob(
    chunks: AsyncIterable<BlobChunk>,
  ): Promise<{ receivedBytes: number; complete: boolean }> {
    return await this.#bulk.putBlob(chunks);
  }

  async statBlob(digest: string): Promise<{ receivedBytes: number; complete: boolean }> {
    return await this.#bulk.statBlob(digest);
  }

  async putSamples(upload: SampleUpload): Promise<{ taken: readonly string[]; reason: string }> {
    return await this.#bulk.putSamples(upload);
  }

  close(): void {
    this.#options.bulk?.close();
  }
}

/** One session: from the greeting until something is amiss. */
class KubeSession {
  readonly #api: NodeKubeApi;
  readonly #clock: Clock;
  readonly #onFrame: (frame: CloudFrame) => void;
  readonly #folder: string;
  readonly #storeId: string;
  readonly #lease: SessionLease;
  readonly #stop = new AbortController();
  readonly closed: Promise<string | undefined>;
  #resolveClosed: (reason: string | undefined) => void = () => undefined;
  #device = '';
  #epoch = 0;
  /** Number of the newest change that was told. */
  #rev = 0;
  #version = '';
  readonly #listed = new Map<string, NodeObject>();
  readonly #held = new Map<string, { digest: string; uid: string }>();
  readonly #recordVersions = new Map<string, KubeObject>();
  /** What was told as which number: a node refuses by number. */
  readonly #told = new Map<bigint, { key: string; digest: string; version: string }>();
  readonly #records: (FrameOf<'record'> | Refused)[] = [];
  #isWriting = false;

  readonly #memory: { hold?: SeenHold };

  constructor(
    options: KubeTransportOptions,
    onFrame: (frame: CloudFrame) => void,
    memory: { hold?: SeenHold },
  ) {
    this.#memory = memory;
    this.#api = options.api;
    this.#clock = options.clock;
    this.#onFrame = onFrame;
    const namespace = nodeNamespace(options.node);
    this.#folder = `/apis/sedna.io/v1alpha1/namespaces/${namespace}`;
    this.#storeId = `kubernetes/${namespace}`;
    this.#lease = new SessionLease(options.api, namespace, options.clock);
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  end(reason: string | undefined): void {
    this.#stop.abort();
    this.#resolveClosed(reason);
  }

  #tell(frame: Told): void {
    if (!this.#stop.signal.aborted) this.#onFrame(create(CloudFrameSchema, { frame }));
  }

  /** What goes wrong ends the session; the next one begins from what is there then. */
  #guarded(step: () => Promise<void>): void {
    void step().catch((error: unknown) => this.end(messageOf(error)));
  }

  receive(frame: EdgeFrame): void {
    if (this.#stop.signal.aborted) return;
    switch (frame.frame.case) {
      case 'hello': {
        const hello = frame.frame.value;
        return this.#guarded(async () => await this.#greet(hello));
      }
      case 'inventory':
        return this.#inventory(frame.frame.value);
      case 'record':
        this.#records.push(frame.frame.value);
        return this.#guarded(async () => await this.#write());
      case 'ping': {
        const { nonce } = frame.frame.value;
        return this.#guarded(async () => {
          await this.#lease.renew(this.#device, this.#epoch);
          this.#tell({ case: 'pong', value: { nonce } });
        });
      }
      case 'resync':
        return this.end('the edge has missed a change');
      case 'ack':
        return this.#refused(frame.frame.value);
      case 'pong':
      case undefined:
    }
  }

  async #greet(hello: FrameOf<'hello'>): Promise<void> {
    this.#device = hello.edgeStoreId;
    const taken = await this.#lease.take(this.#device, Number(hello.epoch), this.#memory.hold);
    if ('hold' in taken) {
      this.#memory.hold = taken.hold;
      return this.end('the node is connected from another device; a second one is refused');
    }
    this.#epoch = taken.epoch;
    const { items, resourceVersion } = await this.#api.list(`${this.#folder}/nodeobjects`);
    for (const item of items as unknown as NodeObject[]) this.#listed.set(keyOf(item.spec), item);
    this.#version = resourceVersion;
    this.#tell({
      case: 'welcome',
      value: {
        epoch: BigInt(this.#epoch),
        storeId: this.#storeId,
        head: BigInt(items.length),
        compacted: 0n,
        mode: 'reconcile',
        pingMs: RENEW_MS,
        capabilities: ['reconcile', 'log'],
        positions: [],
        certificateRemainingMs: 0n,
      },
    });
    this.#guarded(async () => await this.#keepLease());
  }

  /** The lease is renewed, and the edge told that all is well. */
  async #keepLease(): Promise<void> {
    const { signal } = this.#stop;
    for (let nonce = 1n; !signal.aborted; nonce++) {
      await this.#clock.sleep(RENEW_MS, signal).catch(() => undefined);
      if (signal.aborted) return;
      await this.#lease.renew(this.#device, this.#epoch);
      this.#tell({ case: 'ping', value: { nonce } });
    }
  }

  /** The edge says what it holds: it gets what differs, and hears of what is gone by its absence. */
  #inventory({ items, last }: FrameOf<'inventory'>): void {
    for (const { digest, uid, ...key } of items) this.#held.set(keyOf(key), { digest, uid });
    if (!last) return;
    const all = [...this.#listed].map(([key, object]): Item => {
      const held = this.#held.get(key);
      const isSame = held?.digest === object.spec.digest && held.uid === object.spec.uid;
      return batchItem(object, isSame ? 'keep' : 'put', ++this.#rev);
    });
    // Told by now: their bodies need not stay for the session.
    this.#held.clear();
    this.#listed.clear();
    const pages = paged(all);
    for (const [i, page] of pages.entries())
      this.#batch(page, {
        from: i + 1,
        to: this.#rev,
        reconcile: true,
        last: i === pages.length - 1,
      });
    this.#guarded(async () => await this.#follow());
  }

  #batch(
    items: readonly Item[],
    at: { from: number; to: number; reconcile?: boolean; last?: boolean },
  ): void {
    const { from, to, reconcile = false, last = false } = at;
    for (const { rev, op, digest, version, ...key } of items)
      if (op === 'put') this.#told.set(rev, { key: keyOf(key), digest, version });
    this.#tell({
      case: 'batch',
      value: {
        storeId: this.#storeId,
        epoch: BigInt(this.#epoch),
        from: BigInt(from),
        to: BigInt(to),
        snapshot: false,
        reconcile,
        last,
        items: items.map(({ version: _own, ...item }) => item),
      },
    });
  }

  async #follow(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      const startedAt = this.#clock.monotonic();
      await this.#api.watch(`${this.#folder}/nodeobjects`, this.#version, {
        signal,
        onEvent: (event) => this.#change(event),
      });
      // Whatever ends watches at once is not asked again at once.
      const rest = WATCH_PAUSE_MS - (this.#clock.monotonic() - startedAt);
      if (rest > 0) await this.#clock.sleep(rest, signal).catch(() => undefined);
    }
  }

  #change({ type, object }: KubeEvent): void {
    this.#version = object.metadata.resourceVersion ?? this.#version;
    if (type === 'BOOKMARK') return;
    const changed = object as unknown as NodeObject;
    const from = this.#rev;
    const to = ++this.#rev;
    const op = type === 'DELETED' ? 'delete' : 'put';
    this.#batch([batchItem(changed, op, to)], { from, to });
  }

  /** Writes records one after the other; what the API server has taken is acknowledged. */
  async #write(): Promise<void> {
    if (this.#isWriting) return;
    this.#isWriting = true;
    try {
      for (
        let r = this.#records.shift();
        r && !this.#stop.signal.aborted;
        r = this.#records.shift()
      ) {
        await this.#writeOne(r);
        if (!('$typeName' in r)) continue;
        this.#tell({ case: 'recordAck', value: { stream: r.stream, seq: r.seq } });
      }
    } finally {
      this.#isWriting = false;
    }
  }

  /** What the edge refused goes up as a record of its own, which the edge knows nothing of. */
  #refused({ cursor, nacks }: FrameOf<'ack'>): void {
    for (const { rev, error } of nacks) {
      const told = this.#told.get(rev);
      if (!told) continue;
      const { digest, version } = told;
      const refusal: Refusal = { digest, version, error: error.slice(0, MAX_ERROR) };
      const key = `${told.key}/${REFUSED_PART}`;
      const body = Buffer.from(JSON.stringify(refusal));
      this.#records.push({ stream: 'state', seq: rev, first: 0n, key, idempotencyKey: '', body });
    }
    for (const rev of this.#told.keys()) if (rev <= cursor) this.#told.delete(rev);
    this.#guarded(async () => await this.#write());
  }

  async #writeOne(record: FrameOf<'record'> | Refused): Promise<void> {
    const { stream, seq, first, key, idempotencyKey } = record;
    const spec = {
      // Numbers of this way are not those of a link to the global manager.
      edgeStore: `${this.#device}/kubernetes`,
      stream,
      seq: Number(seq),
      key,
      body: Buffer.from(record.body).toString('utf8'),
      ...(stream === 'state' ? {} : { first: Number(first), idempotencyKey }),
    };
    const name = nodeRecordName(spec);
    const path = `${this.#folder}/noderecords`;
    const head = { apiVersion: 'sedna.io/v1alpha1', kind: 'NodeRecord' };
    const known = this.#recordVersions.get(name) ?? (await this.#api.get(`${path}/${name}`));
    try {
      const object = known
        ? await this.#api.send('PUT', `${path}/${name}`, { ...known, ...head, spec })
        : await this.#api.send('POST', path, { ...head, metadata: { name }, spec });
      if (stream === 'state') this.#recordVersions.set(name, object);
    } catch (error) {
      this.#recordVersions.delete(name);
      // An entry of a log that was taken meanwhile is gone: it has had its effect.
      if (stream !== 'state' && isShoalError(error) && error.code === 'not_found') return;
      throw error;
    }
  }
}

/** Items in pages the edge takes at once; one page at least. */
function paged(items: readonly Item[]): Item[][] {
  const pages: Item[][] = [[]];
  let bytes = 0;
  for (const item of items) {
    const page = pages.at(-1) ?? [];
    if (page.length >= PAGE_ITEMS || (page.length > 0 && bytes + item.body.length > PAGE_BYTES)) {
      pages.push([item]);
      bytes = item.body.length;
    } else {
      page.push(item);
      bytes += item.body.length;
    }
  }
  return pages;
}
