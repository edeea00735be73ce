import { isDeepStrictEqual } from 'node:util';
import type { FiguresEntry } from '@shoal/api';
import { type Clock, isJsonObject, type Logger, messageOf, rfc3339 } from '@shoal/core';
import type { Link } from '../link/link.ts';
import type { EdgeDatabase } from '../store/database.ts';

export interface FigureLogPorts {
  readonly db: EdgeDatabase;
  readonly link: Pick<Link, 'append'>;
  readonly clock: Clock;
  readonly logger: Logger;
  /** How often figures are noted. */
  readonly periodMs: number;
}

type Figures = Record<string, number>;

/** What was noted last, and the number of the next entry. */
interface Noted {
  readonly entry: number;
  readonly figures: Readonly<Record<string, Figures>>;
}

const KEY = 'figures';
/** Figures of one report; a report with more is no report of figures. */
const MAX_FIGURES = 50;
/** Reports in one entry; others are in the next. */
const MAX_REPORTS = 100;

/** Numbers in a report, one level down too: `ownerInfo.inferenceNumber` is `inferenceNumber`. */
function numbersIn(report: unknown): Figures {
  if (!isJsonObject(report)) return {};
  const found: [string, number][] = [];
  const take = (object: object): void => {
    for (const [name, value] of Object.entries(object))
      if (typeof value === 'number' && Number.isFinite(value)) found.push([name, value]);
  };
  take(report);
  for (const part of Object.values(report)) if (isJsonObject(part)) take(part);
  return Object.fromEntries(found.slice(0, MAX_FIGURES));
}

/**
 * The history of this node’s figures: what its workers, datasets and spools count, noted once a period
 * where it has changed. It waits on the disk within the outbox’s quota, the oldest going first, and
 * reaches the cloud once.
 */
export class FigureLog {
  readonly #ports: FigureLogPorts;
  #nextAtMs = 0;

  constructor(ports: FigureLogPorts) {
    this.#ports = ports;
  }

  /** Notes what has changed since the last time, when a period is over. */
  poll(): void {
    const { clock, periodMs, logger } = this.#ports;
    const now = clock.monotonic();
    if (now < this.#nextAtMs) return;
    this.#nextAtMs = now + periodMs;
    try {
      while (this.#note());
    } catch (error) {
      // A full disk: the node goes on, its history has a hole.
      logger.warn('figures were not noted', { reason: messageOf(error) });
    }
  }

  /** @returns Whether there is more to note. */
  #note(): boolean {
    const { db, link, clock } = this.#ports;
    const { entry = 0, figures: before = {} } = db.progress<Noted>(KEY) ?? {};
    const now: Record<string, Figures> = {};
    for (const { key, body } of db.outbox.everythingSaid()) {
      const figures = numbersIn(body);
      if (Object.keys(figures).length > 0) now[key] = figures;
    }
    const changed = Object.entries(now)
      .filter(([key, figures]) => !isDeepStrictEqual(figures, before[key]))
      .slice(0, MAX_REPORTS);
    if (changed.length === 0) return false;
    const body: FiguresEntry = { at: rfc3339(clock.now()), figures: Object.fromEntries(changed) };
    // Killed between the two, the entry is noted again under the same key, and counts once.
    const idempotencyKey = `figures/${db.id}/${entry}`;
    link.append('figures', { key: 'Node/default/figures', body, idempotencyKey, droppable: true });
    const kept = Object.entries(before).filter(([key]) => key in now);
    const figures = Object.fromEntries([...kept, ...changed]);
    db.setProgress(KEY, { entry: entry + 1, figures } satisfies Noted);
    return changed.length === MAX_REPORTS;
  }
}
