import { canonicalJson, digestOf, type SqlRow } from '@shoal/core';
import type { CloudStore } from './cloud-store.ts';

/** Identifies an object in a feed. */
export interface FeedKey {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
}

export interface FeedItem extends FeedKey {
  readonly rev: number;
  readonly op: 'put' | 'delete' | 'keep';
  readonly digest: string;
  readonly body: Uint8Array;
}

export interface FeedPage {
  readonly from: number;
  readonly to: number;
  readonly items: readonly FeedItem[];
}

/** What an edge holds of an object. */
export interface HeldItem extends FeedKey {
  readonly digest: string;
}

/** An object of a node’s scope without its body. */
export type ScopeEntry = Omit<FeedItem, 'body'>;

export interface PageLimits {
  readonly items: number;
  readonly bytes: number;
}

export const WINDOW: PageLimits = { items: 256, bytes: 256 * 1024 };
const ON_CHANGE = 'kind=? AND namespace=? AND name=?';

/**
 * What each node should know: a log per node in which a newer change of an object replaces the
 * older one (the feed is the queue: nothing is dropped for being slow); bodies are stored once
 * however many nodes get them.
 */
export class Feed {
  readonly #store: CloudStore;
  readonly #appendListeners: ((node: string) => void)[] = [];
  readonly #damageListeners: ((key: Omit<FeedKey, 'uid'>) => void)[] = [];

  constructor(store: CloudStore) {
    this.#store = store;
  }

  get storeId(): string {
    return this.#store.id;
  }

  onAppend(listener: (node: string) => void): void {
    this.#appendListeners.push(listener);
  }

  /** Called with objects whose stored body was found damaged: they must be assigned again. */
  onDamage(listener: (key: Omit<FeedKey, 'uid'>) => void): void {
    this.#damageListeners.push(listener);
  }

  /**
   * Makes an object visible to exactly these nodes, each with its own body. Nodes that saw it
   * before and are not named get a delete. Nothing happens where nothing changed.
   */
  assign(key: FeedKey, bodies: ReadonlyMap<string, object>): void {
    const touched = this.#store.transaction(() => {
      const nodes: string[] = [];
      const seen = this.#store.all(
        `SELECT node FROM change WHERE ${ON_CHANGE} AND op='put'`,
        ...path(key),
      );
      for (const row of seen) {
        const node = String(row['node']);
        if (!bodies.has(node) && this.#append(node, key, undefined)) nodes.push(node);
      }
      for (const [node, body] of bodies) if (this.#append(node, key, body)) nodes.push(node);
      return nodes;
    });
    for (const node of touched) for (const listener of this.#appendListeners) listener(node);
  }

  #append(node: string, key: FeedKey, body: object | undefined): boolean {
    const store = this.#store;
    const text = body === undefined ? '' : canonicalJson(body);
    const digest = body === undefined ? '' : digestOf(text);
    const op = body === undefined ? 'delete' : 'put';
    const current = store.get(
      `SELECT op, digest, uid FROM change WHERE node=? AND ${ON_CHANGE}`,
      node,
      ...path(key),
    );
    if (
      current?.['op'] === op &&
      current['digest'] === digest &&
      (op === 'delete' || current['uid'] === key.uid)
    )
      return false;
    // A delete carries the uid of what is deleted, so that it cannot hit a successor of the same name.
    const uid = op === 'delete' ? String(current?.['uid'] ?? key.uid) : key.uid;
    store.run(
      'INSERT INTO scope(node, head, epoch) VALUES(?, 1, 0) ON CONFLICT(node) DO UPDATE SET head=head+1',
      node,
    );
    if (text !== '')
      store.run('INSERT OR IGNORE INTO body VALUES(?, ?)', digest, Buffer.from(text));
    store.run(
      'INSERT OR REPLACE INTO change VALUES(?, ?, ?, ?, ?, (SELECT head FROM scope WHERE node=?), ?, ?)',
      node,
      ...path(key),
      uid,
      node,
      op,
      digest,
    );
    const old = String(current?.['digest'] ?? '');
    if (old !== '' && old !== digest)
      store.run(
        'DELETE FROM body WHERE digest=? AND NOT EXISTS (SELECT 1 FROM change WHERE digest=?)',
        old,
        old,
      );
    return true;
  }

  head(node: string): number {
    return Number(this.#store.get('SELECT head FROM scope WHERE node=?', node)?.['head'] ?? 0);
  }

  /** Deletes up to this revision are no longer in the feed. */
  compacted(node: string): number {
    return Number(
      this.#store.get('SELECT compacted FROM scope WHERE node=?', node)?.['compacted'] ?? 0,
    );
  }

  /** Forgets all but the newest deletes of a node: an edge that is further behind reconciles. */
  compact(node: string, keptDeletes: number): void {
    const row = this.#store.get(
      "SELECT rev FROM change WHERE node=? AND op='delete' ORDER BY rev DESC LIMIT 1 OFFSET ?",
      node,
      keptDeletes,
    );
    if (!row) return;
    this.#store.transaction(() => {
      const upTo = Number(row['rev']);
      this.#store.run("DELETE FROM change WHERE node=? AND op='delete' AND rev<=?", node, upTo);
      this.#store.run('UPDATE scope SET compacted=MAX(compacted, ?) WHERE node=?', upTo, node);
    });
  }

  /**
   * Raises and returns the node's session number: only the newest session may write. To be called
   * in a transaction of the store.
   *
   * @param atLeast What the edge has seen: a cloud restored from a backup goes beyond it.
   */
  raiseEpoch(node: string, atLeast = 0): number {
    const row = this.#store.get(
      'INSERT INTO scope(node, head, epoch) VALUES(?, 0, ?) ON CONFLICT(node) DO UPDATE SET epoch=MAX(epoch, excluded.epoch - 1) + 1 RETURNING epoch',
      node,
      atLeast + 1,
    );
    return Number(row?.['epoch']);
  }

  epoch(node: string): number {
    return Number(this.#store.get('SELECT epoch FROM scope WHERE node=?', node)?.['epoch'] ?? 0);
  }

  /** Changes after a revision, at most a window's worth. Undefined when there is nothing new. */
  page(node: string, from: number, limits: PageLimits = WINDOW): FeedPage | undefined {
    const rows = this.#store.all(
      'SELECT c.*, b.bytes FROM change c LEFT JOIN body b ON b.digest=c.digest WHERE node=? AND rev>? ORDER BY rev LIMIT ?',
      node,
      from,
      limits.items,
    );
    const items: FeedItem[] = [];
    let bytes = 0;
    for (const row of rows) {
      const item = toItem(row);
      bytes += item.body.length;
      if (items.length > 0 && bytes > limits.bytes) break;
      items.push(item);
    }
    const last = items.at(-1);
    if (!last) return undefined;
    // The last page ends at the head: revisions that were replaced count as delivered.
    const isLast = items.length === rows.length && rows.length < limits.items;
    return { from, to: isLast ? this.head(node) : last.rev, items };
  }

  /** Everything the node should have, without the bodies. */
  scope(node: string): ScopeEntry[] {
    return this.#store
      .all(
        "SELECT kind, namespace, name, uid, rev, op, digest FROM change WHERE node=? AND op='put' ORDER BY rev",
        node,
      )
      .map(toEntry);
  }

  /** Undefined once nothing has the digest any more. */
  body(digest: string): Uint8Array | undefined {
    return this.#store.get('SELECT bytes FROM body WHERE digest=?', digest)?.['bytes'] as
      | Uint8Array
      | undefined;
  }

  /** Everything the node should have, for an edge that cannot reconcile. */
  snapshot(node: string): FeedPage {
    const rows = this.#store.all(
      "SELECT c.*, b.bytes FROM change c LEFT JOIN body b ON b.digest=c.digest WHERE node=? AND op='put' ORDER BY rev",
      node,
    );
    return { from: 0, to: this.head(node), items: rows.map(toItem) };
  }

  /**
   * An edge refused changes. They stay in the list of refused changes until newer ones of the
   * objects are taken. Where our own copy is at fault it is thrown away, and asked for again.
   */
  refused(node: string, nacks: readonly { readonly rev: number; readonly error: string }[]): void {
    const store = this.#store;
    const fresh = nacks.flatMap(({ rev, error }) => {
      const row = store.get('SELECT * FROM change WHERE node=? AND rev=?', node, rev);
      if (!row) return []; // replaced meanwhile: the newer change is on its way
      const known = store.get('SELECT 1 FROM nack WHERE node=? AND rev=?', node, rev);
      const digest = String(row['digest']);
      const bytes = this.body(digest);
      const isDamaged = digest !== '' && !(bytes && digestOf(bytes) === digest);
      return known && !isDamaged
        ? []
        : [{ ...toEntry(row), error: error.slice(0, 500), isDamaged }];
    });
    if (fresh.length === 0) return;
    store.transaction(() => {
      for (const { kind, namespace, name, rev, error, digest, isDamaged } of fresh) {
        store.run(
          'INSERT OR REPLACE INTO nack VALUES(?, ?, ?, ?, ?, ?)',
          node,
          kind,
          namespace,
          name,
          rev,
          error,
        );
        if (!isDamaged) continue;
        store.run('DELETE FROM body WHERE digest=?', digest);
        store.run("UPDATE change SET digest='damaged' WHERE digest=?", digest);
      }
    });
    for (const { kind, namespace, name, isDamaged } of fresh)
      if (isDamaged)
        for (const listener of this.#damageListeners) listener({ kind, namespace, name });
  }

  /** Changes the edge refused and has not got a newer version of, with the reason. */
  refusals(node: string): (Omit<FeedKey, 'uid'> & { rev: number; error: string })[] {
    return this.#store
      .all(
        'SELECT n.* FROM nack n JOIN change c USING(node, kind, namespace, name) WHERE n.node=? AND c.rev=n.rev',
        node,
      )
      .map((row) => ({
        kind: String(row['kind']),
        namespace: String(row['namespace']),
        name: String(row['name']),
        rev: Number(row['rev']),
        error: String(row['error']),
      }));
  }

  /** True when something addressed to this node names the digest: only then may it read the blob. */
  mentions(node: string, digest: string): boolean {
    const row = this.#store.get(
      "SELECT 1 FROM change c JOIN body b ON b.digest=c.digest WHERE node=? AND op='put' AND instr(CAST(b.bytes AS TEXT), ?) > 0 LIMIT 1",
      node,
      digest,
    );
    return row !== undefined;
  }

  /** What a node has been told of an object, if it is meant for it. */
  assigned<T>(node: string, key: FeedKey): T | undefined {
    const row = this.#store.get(
      "SELECT b.bytes FROM change c JOIN body b ON b.digest=c.digest WHERE node=? AND kind=? AND namespace=? AND name=? AND uid=? AND op='put'",
      node,
      ...path(key),
      key.uid,
    );
    return row
      ? (JSON.parse(Buffer.from(row['bytes'] as Uint8Array).toString('utf8')) as T)
      : undefined;
  }

  /** Everything of a kind that a node has been told. */
  bodies<T>(node: string, kind: string): T[] {
    return this.#store
      .all(
        "SELECT b.bytes FROM change c JOIN body b ON b.digest=c.digest WHERE node=? AND kind=? AND op='put'",
        node,
        kind,
      )
      .map((row) => JSON.parse(Buffer.from(row['bytes'] as Uint8Array).toString('utf8')) as T);
  }

  /** Nodes that have a scope, connected or not. */
  nodes(): string[] {
    return this.#store.all('SELECT node FROM scope ORDER BY node').map((r) => String(r['node']));
  }
}

function path(key: Omit<FeedKey, 'uid'>): [string, string, string] {
  return [key.kind, key.namespace, key.name];
}

function toEntry(row: SqlRow): ScopeEntry {
  return {
    rev: Number(row['rev']),
    op: row['op'] === 'delete' ? 'delete' : 'put',
    kind: String(row['kind']),
    namespace: String(row['namespace']),
    name: String(row['name']),
    uid: String(row['uid']),
    digest: String(row['digest']),
  };
}

function toItem(row: SqlRow): FeedItem {
  return { ...toEntry(row), body: (row['bytes'] as Uint8Array | null) ?? new Uint8Array() };
}
