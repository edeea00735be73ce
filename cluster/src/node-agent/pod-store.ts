import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { dirname, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { keyFile } from '../key-file.ts';
import { type ApiObject, digString } from '../object.ts';

export interface ProcessRecord {
  readonly pid: number;
  readonly startTime: string | undefined;
}

/** Which ConfigMap or Secret. */
export interface ConfigKey {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
}

const ALGORITHM = 'aes-256-gcm';
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/** Encrypts what the agent keeps: pods and the secrets they use are readable with its key only. */
class Vault {
  readonly #key: Buffer;

  /** @param file The key; made when it is not there. */
  constructor(file: string) {
    this.#key = keyFile(file);
  }

  seal(value: unknown): Buffer {
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv(ALGORITHM, this.#key, nonce);
    const body = Buffer.concat([cipher.update(JSON.stringify(value), 'utf8'), cipher.final()]);
    return Buffer.concat([nonce, cipher.getAuthTag(), body]);
  }

  /** Undefined for what this key did not seal, or what was changed since. */
  open(sealed: Uint8Array): unknown {
    try {
      const bytes = Buffer.from(sealed);
      const decipher = createDecipheriv(ALGORITHM, this.#key, bytes.subarray(0, NONCE_BYTES));
      decipher.setAuthTag(bytes.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES));
      const body = bytes.subarray(NONCE_BYTES + TAG_BYTES);
      const text = Buffer.concat([decipher.update(body), decipher.final()]).toString('utf8');
      return JSON.parse(text) as unknown;
    } catch {
      return undefined;
    }
  }
}

/** What the agent must know after a restart without an API server: its pods, and its processes. */
export class PodStore {
  readonly #db: DatabaseSync;
  readonly #vault: Vault;

  constructor(path: string) {
    this.#vault = new Vault(join(dirname(path), 'agent.key'));
    this.#db = new DatabaseSync(path);
    this.#db.exec(
      'PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=ON; PRAGMA busy_timeout=5000;' +
        'CREATE TABLE IF NOT EXISTS sealed_pods(uid TEXT PRIMARY KEY, body BLOB NOT NULL);' +
        'CREATE TABLE IF NOT EXISTS configs(kind TEXT, namespace TEXT, name TEXT, body BLOB NOT NULL,' +
        ' PRIMARY KEY(kind, namespace, name));' +
        // Kept in the clear by an older agent.
        'DROP TABLE IF EXISTS pods;' +
        'CREATE TABLE IF NOT EXISTS processes(pid INTEGER PRIMARY KEY, start_time TEXT);',
    );
  }

  pods(): ApiObject[] {
    return this.#db
      .prepare('SELECT body FROM sealed_pods')
      .all()
      .map((r) => this.#vault.open(r['body'] as Uint8Array) as ApiObject | undefined)
      .filter((pod) => pod !== undefined);
  }

  savePod(pod: ApiObject): void {
    this.#db
      .prepare('INSERT OR REPLACE INTO sealed_pods VALUES(?, ?)')
      .run(digString(pod, 'metadata', 'uid') ?? '', this.#vault.seal(pod));
  }

  removePod(uid: string): void {
    this.#db.prepare('DELETE FROM sealed_pods WHERE uid=?').run(uid);
  }

  /** A ConfigMap or Secret as it was last read; undefined when it never was, or was gone then. */
  config(at: ConfigKey): ApiObject | undefined {
    const row = this.#db
      .prepare('SELECT body FROM configs WHERE kind=? AND namespace=? AND name=?')
      .get(at.kind, at.namespace, at.name);
    return row ? (this.#vault.open(row['body'] as Uint8Array) as ApiObject | undefined) : undefined;
  }

  keepConfig({ kind, namespace, name }: ConfigKey, object: ApiObject | undefined): void {
    if (object) {
      this.#db
        .prepare('INSERT OR REPLACE INTO configs VALUES(?, ?, ?, ?)')
        .run(kind, namespace, name, this.#vault.seal(object));
    } else {
      this.#db
        .prepare('DELETE FROM configs WHERE kind=? AND namespace=? AND name=?')
        .run(kind, namespace, name);
    }
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
    // A process may end after the agent has: the next one finds it gone.
    if (!this.#db.isOpen) return;
    this.#db.prepare('DELETE FROM processes WHERE pid=?').run(pid);
  }

  close(): void {
    this.#db.close();
  }
}
