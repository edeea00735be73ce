import { type FiguresEntry, isFigures } from '@shoal/api';
import type { CloudStore } from './cloud-store.ts';

/** Entries that are kept per node: a day of minutes in which something changed. */
const KEPT_ENTRIES = 1_440;
const KEPT_BYTES = 4 * 1024 ** 2;

/** What nodes counted, over time. */
export class FigureHistory {
  readonly #store: CloudStore;

  constructor(store: CloudStore) {
    this.#store = store;
  }

  /** Adds an entry of a node, in a transaction of the store. What is no entry is left out. */
  add(node: string, body: Uint8Array): void {
    if (!isFigures(JSON.parse(Buffer.from(body).toString('utf8')))) return;
    this.#store.run('INSERT INTO figure(node, body) VALUES(?, ?)', node, body);
    this.#store.run(
      `DELETE FROM figure WHERE id IN (SELECT id FROM (
         SELECT id, row_number() OVER newest AS n, sum(length(body)) OVER newest AS bytes
         FROM figure WHERE node=? WINDOW newest AS (ORDER BY id DESC)) WHERE n > ? OR bytes > ?)`,
      node,
      KEPT_ENTRIES,
      KEPT_BYTES,
    );
  }

  /** Entries of a node, oldest first. */
  of(node: string): FiguresEntry[] {
    return this.#store
      .all('SELECT body FROM figure WHERE node=? ORDER BY id', node)
      .map(
        (r) => JSON.parse(Buffer.from(r['body'] as Uint8Array).toString('utf8')) as FiguresEntry,
      );
  }
}
