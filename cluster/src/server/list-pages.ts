import { randomUUID } from 'node:crypto';
import type { ApiObject } from '../object.ts';
import { StatusError } from './status-error.ts';

/** The rest of a list that a client reads page by page. */
interface Snapshot {
  readonly items: readonly ApiObject[];
  readonly revision: number;
  readonly at: number;
}

export interface Page {
  readonly items: readonly ApiObject[];
  readonly metadata: { resourceVersion: string; continue?: string; remainingItemCount?: number };
}

const MAX_AGE_MS = 5 * 60_000;
const MAX_SNAPSHOTS = 200;

/**
 * `limit` and `continue`: all pages of a list are of one revision. What is still to be read is kept
 * for five minutes, as long as a real API server keeps old revisions.
 */
export class ListPages {
  readonly #snapshots = new Map<string, Snapshot>();

  /** The first page of a list. */
  first(items: readonly ApiObject[], revision: number, limit: number): Page {
    return this.#cut({ items, revision, at: Date.now() }, 0, limit);
  }

  /** @throws StatusError `Expired` when the pages are no longer kept: list again. */
  next(token: string, limit: number): Page {
    const [id = '', start = ''] = token.split('.');
    const snapshot = this.#snapshots.get(id);
    if (!snapshot || Date.now() - snapshot.at > MAX_AGE_MS) {
      const message =
        'The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.';
      throw new StatusError('Expired', message);
    }
    return this.#cut(snapshot, Number(start), limit, id);
  }

  #cut(snapshot: Snapshot, start: number, limit: number, known?: string): Page {
    const { items, revision } = snapshot;
    const resourceVersion = String(revision);
    const end = limit > 0 ? start + limit : items.length;
    if (end >= items.length) {
      if (known !== undefined) this.#snapshots.delete(known);
      return { items: items.slice(start), metadata: { resourceVersion } };
    }
    const id = known ?? this.#keep(snapshot);
    return {
      items: items.slice(start, end),
      metadata: {
        resourceVersion,
        continue: `${id}.${end}`,
        remainingItemCount: items.length - end,
      },
    };
  }

  #keep(snapshot: Snapshot): string {
    for (const [id, { at }] of this.#snapshots) {
      const old = Date.now() - at > MAX_AGE_MS;
      if (old || this.#snapshots.size >= MAX_SNAPSHOTS) this.#snapshots.delete(id);
    }
    const id = randomUUID();
    this.#snapshots.set(id, snapshot);
    return id;
  }
}
