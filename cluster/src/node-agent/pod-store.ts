import { DatabaseSync } from 'node:sqlite';
import { type ApiObject, digString } from '../object.ts';

export interface ProcessRecord {
  readonly pid: number;
  readonly startTime: string | undefined;
}

/** What the agent must know after a restart without an API server: its pods, and its processes. */
export class PodStore {
  readonly #db: DatabaseSync;

  constructor(path: string) {
    this.#db = new DatabaseSync(path);
    this.#db.exec(
      'PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000;' +
        'CREATE TABLE IF NOT EXISTS pods(uid TEXT PRIMARY KEY, body TEXT NOT NULL);' +
        'CREATE TABLE IF NOT EXISTS processes(pid INTEGER PRIMARY KEY, start_time TEXT);',
    );
  }

  pods(): ApiObject[] {
    return this.#db
      .prepare('SELECT body FROM pods')
      .all()
      .map((r) => JSON.parse(String(r['body'])) as ApiObject);
  }

  savePod(pod: ApiObject): void {
    this.#db
      .prepare('INSERT OR REPLACE INTO pods VALUES(?, ?)')
      .run(digString(pod, 'metadata', 'uid') ?? '', JSON.stringify(pod));
  }

  removePod(uid: string): void {
    this.#db.prepare('DELETE FROM pods WHERE uid=?').run(uid);
  }

  processes(): ProcessRecord[] {
    return this.#db
      .prepare('SELECT pid, start_time FROM processes')
      .all()
      .map((r) => ({
        pid: Number(r['pid']),
        startTime: r['start_time'] === null ? undefined : String(r['start_time']),
      }));
  }

  addProcess(record: ProcessRecord): void {
    this.#db
      .prepare('INSERT OR REPLACE INTO processes VALUES(?, ?)')
      .run(record.pid, record.startTime ?? null);
  }

  removeProcess(pid: number): void {
    this.#db.prepare('DELETE FROM processes WHERE pid=?').run(pid);
  }

  close(): void {
    this.#db.close();
  }
}
