import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { fromNode, migrate, type SqlDatabase, type SqlRow, Statements } from '@shoal/core';
import type { CaseOutcome } from '../case-process/outcome.ts';
import type { PlannedCase } from '../plan/planned-case.ts';
import { redacted } from '../plan/secrets.ts';
import type { Provenance } from './provenance.ts';

/** How a case ended. */
export type CaseState = 'done' | 'failed' | 'timeout';

/** A case that has run. */
export interface CaseRecord {
  readonly id: string;
  readonly state: CaseState;
  /** Without secrets. */
  readonly planned: PlannedCase;
  readonly outcome?: CaseOutcome;
  readonly error?: string;
  readonly seconds: number;
  /** Where it ran: `process`, or `cluster`. */
  readonly place: string;
  /** Hash of the code of the place; empty for a process, whose code is part of the id. */
  readonly code: string;
}

/** One call of `shoal bench run`: which cases it was about, on which machine. */
export interface RunRecord {
  readonly id: number;
  readonly startedAt: string;
  readonly cases: readonly string[];
  readonly provenance: Provenance;
}

const STEPS = [
  `CREATE TABLE cases (
     id TEXT NOT NULL, place TEXT NOT NULL, state TEXT NOT NULL, planned TEXT NOT NULL,
     outcome TEXT, error TEXT, seconds REAL NOT NULL, finished_at TEXT NOT NULL,
     PRIMARY KEY (id, place)
   ) STRICT;
   CREATE TABLE runs (
     id INTEGER PRIMARY KEY, started_at TEXT NOT NULL, place TEXT NOT NULL,
     cases TEXT NOT NULL, provenance TEXT NOT NULL
   ) STRICT;`,
  `ALTER TABLE cases ADD COLUMN code TEXT NOT NULL DEFAULT '';`,
] as const;

function record(row: SqlRow): CaseRecord {
  const { outcome, error } = row;
  return {
    id: String(row['id']),
    state: row['state'] as CaseState,
    planned: JSON.parse(String(row['planned'])) as PlannedCase,
    seconds: Number(row['seconds']),
    place: String(row['place']),
    code: String(row['code']),
    ...(outcome === null ? {} : { outcome: JSON.parse(String(outcome)) as CaseOutcome }),
    ...(error === null ? {} : { error: String(error) }),
  };
}

/**
 * Results of a job, on disk before the next case is begun: what has run is not run again, whatever
 * happens to the process.
 */
export class RunStore {
  readonly #db: SqlDatabase;
  readonly #sql: Statements;

  private constructor(db: SqlDatabase) {
    this.#db = db;
    this.#sql = new Statements(db);
  }

  /** @throws ShoalError when the folder cannot be written or holds a newer version's results. */
  static open(folder: string): RunStore {
    const path = join(folder, 'results.db');
    try {
      mkdirSync(folder, { recursive: true });
      const db = new DatabaseSync(path) as unknown as SqlDatabase;
      db.exec('PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000;');
      migrate(db, STEPS, path);
      return new RunStore(db);
    } catch (error) {
      throw fromNode(error, `opening results in ${path}`);
    }
  }

  /** Notes a run; what is kept from before is known by its present names from now on. */
  begin(cases: readonly PlannedCase[], place: string, provenance: Provenance): void {
    for (const c of cases)
      this.#sql.run(
        'UPDATE cases SET planned = ? WHERE id = ? AND place = ?',
        JSON.stringify(redacted(c)),
        c.id,
        place,
      );
    this.#sql.run(
      'INSERT INTO runs (started_at, place, cases, provenance) VALUES (?, ?, ?, ?)',
      provenance.startedAt,
      place,
      JSON.stringify(cases.map((c) => c.id)),
      JSON.stringify(provenance),
    );
  }

  /** The newest run at a place; undefined before the first. */
  latest(place: string): RunRecord | undefined {
    const row = this.#sql.get('SELECT * FROM runs WHERE place = ? ORDER BY id DESC LIMIT 1', place);
    return (
      row && {
        id: Number(row['id']),
        startedAt: String(row['started_at']),
        cases: JSON.parse(String(row['cases'])) as string[],
        provenance: JSON.parse(String(row['provenance'])) as Provenance,
      }
    );
  }

  put(planned: PlannedCase, ended: Omit<CaseRecord, 'id' | 'planned'>, finishedAt: string): void {
    this.#sql.run(
      `INSERT INTO cases (id, place, state, planned, outcome, error, seconds, finished_at, code)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
       ON CONFLICT (id, place) DO UPDATE SET state = excluded.state, planned = excluded.planned,
         outcome = excluded.outcome, error = excluded.error, seconds = excluded.seconds,
         finished_at = excluded.finished_at, code = excluded.code`,
      planned.id,
      ended.place,
      ended.state,
      JSON.stringify(redacted(planned)),
      ended.outcome ? JSON.stringify(ended.outcome) : null,
      ended.error ?? null,
      ended.seconds,
      finishedAt,
      ended.code,
    );
  }

  get(id: string, place: string): CaseRecord | undefined {
    const row = this.#sql.get('SELECT * FROM cases WHERE id = ? AND place = ?', id, place);
    return row && record(row);
  }

  /** Seconds that finished cases of an algorithm took, by its name, to estimate others by. */
  secondsOf(algorithm: string): number[] {
    return this.#sql
      .all(
        `SELECT seconds FROM cases WHERE state = 'done' AND json_extract(planned, '$.algorithm.name') = ?`,
        algorithm,
      )
      .map((r) => Number(r['seconds']));
  }

  close(): void {
    this.#db.close();
  }
}
