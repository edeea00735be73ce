import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { fromNode } from '@shoal/core';
import { MAX_SAMPLE_BYTES } from './knowledge-base/check-change.ts';
import type { KnowledgeSample } from './knowledge-base/knowledge-base.ts';

export interface SpoolOptions {
  /** SQLite file; `:memory:` keeps nothing. */
  readonly path: string;
  /** Name of this edge; part of every sample's id. */
  readonly edge: string;
  /** Samples kept on this disk, sent ones included; the oldest sent go first. Default 10,000. */
  readonly capacity?: number;
}

/** A sample before it has an id. */
export type SpooledSample = Omit<KnowledgeSample, 'id' | 'edge'>;

/**
 * Samples no task knew, kept until the knowledge base has them. An id is given once and stays over
 * restarts: however often a sample is sent, it is one.
 */
export class UnseenSpool {
  readonly #db: DatabaseSync;
  readonly #edge: string;
  readonly #capacity: number;

  /** @throws ShoalError when the file cannot be opened. */
  constructor(options: SpoolOptions) {
    this.#edge = options.edge;
    this.#capacity = options.capacity ?? 10_000;
    try {
      if (options.path !== ':memory:') mkdirSync(dirname(options.path), { recursive: true });
      this.#db = new DatabaseSync(options.path);
    } catch (error) {
      throw fromNode(error, `opening ${options.path}`);
    }
    // FULL: a rolled back insert would give an id again that the cloud holds already.
    this.#db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;');
    this.#db.exec(`
      CREATE TABLE IF NOT EXISTS samples (
        number INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL, inputs BLOB NOT NULL,
        sent INTEGER NOT NULL DEFAULT 0) STRICT;
      CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;`);
    this.#db
      .prepare("INSERT OR IGNORE INTO facts VALUES ('instance', ?)")
      .run(Math.random().toString(36).slice(2, 10));
  }

  /** Part of every id: a disk that was lost must not give old ids again. */
  get #instance(): string {
    const row = this.#db.prepare("SELECT value FROM facts WHERE name = 'instance'").get();
    return String(row?.['value']);
  }

  #fact(name: string): number {
    const row = this.#db.prepare('SELECT value FROM facts WHERE name = ?').get(name);
    return Number(row?.['value'] ?? 0);
  }

  #setFact(name: string, value: number): void {
    this.#db
      .prepare(
        'INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value',
      )
      .run(name, String(value));
  }

  /** Samples that were given up unsent because the disk's share was full. */
  get dropped(): number {
    return this.#fact('dropped');
  }

  #count(where: string): number {
    return Number(this.#db.prepare(`SELECT count(*) AS n FROM samples ${where}`).get()?.['n'] ?? 0);
  }

  get pendingCount(): number {
    return this.#count('WHERE sent = 0');
  }

  /** Keeps a sample. A full spool drops the oldest, sent ones first; what was never sent is counted. */
  add(sample: SpooledSample): void {
    const { inputs, ...body } = sample;
    if (inputs.byteLength > MAX_SAMPLE_BYTES) {
      // The knowledge base would refuse it, and everything behind it with it.
      this.#setFact('dropped', this.dropped + 1);
      return;
    }
    const bytes = new Uint8Array(inputs.buffer, inputs.byteOffset, inputs.byteLength);
    this.#db
      .prepare('INSERT INTO samples (body, inputs) VALUES (?, ?)')
      .run(JSON.stringify(body), bytes);
    const over = this.#count('') - this.#capacity;
    if (over <= 0) return;
    const sent = Math.min(over, this.#count('WHERE sent = 1'));
    this.#delete('sent = 1', sent);
    if (over > sent) {
      this.#delete('sent = 0', over - sent);
      this.#setFact('dropped', this.dropped + over - sent);
    }
  }

  #delete(where: string, count: number): void {
    this.#db
      .prepare(
        `DELETE FROM samples WHERE number IN (SELECT number FROM samples WHERE ${where} ORDER BY number LIMIT ?)`,
      )
      .run(count);
  }

  /** Samples that are not known to have arrived, oldest first: so many, and about so many bytes. */
  pending(limit: number, maxBytes: number = Number.POSITIVE_INFINITY): KnowledgeSample[] {
    const found = this.#unsent(limit);
    let bytes = 0;
    const fits = found.findIndex((s, i) => (bytes += s.inputs.byteLength) > maxBytes && i > 0);
    return fits < 0 ? found : found.slice(0, fits);
  }

  #unsent(limit: number): KnowledgeSample[] {
    const instance = this.#instance;
    return this.#db
      .prepare('SELECT * FROM samples WHERE sent = 0 ORDER BY number LIMIT ?')
      .all(limit)
      .map((row) => ({
        ...(JSON.parse(String(row['body'])) as Omit<SpooledSample, 'inputs'>),
        id: `${this.#edge}/${instance}/${Number(row['number'])}`,
        edge: this.#edge,
        inputs: new Float32Array(new Uint8Array(row['inputs'] as Uint8Array).buffer),
      }));
  }

  /** The knowledge base has these. */
  arrived(ids: readonly string[]): void {
    const mark = this.#db.prepare('UPDATE samples SET sent = 1 WHERE number = ?');
    for (const id of ids) mark.run(Number(id.slice(id.lastIndexOf('/') + 1)));
  }

  close(): void {
    this.#db.close();
  }
}
