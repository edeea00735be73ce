import { digestOf, type SqlDatabase } from '@shoal/core';

/** What a store made before steps were counted has, too. */
const FIRST = `
  CREATE TABLE IF NOT EXISTS sync_state(id INTEGER PRIMARY KEY CHECK(id=1), store_id TEXT NOT NULL, cursor INTEGER NOT NULL);
  INSERT OR IGNORE INTO sync_state VALUES(1, '', 0);
  CREATE TABLE IF NOT EXISTS objects(kind TEXT, namespace TEXT, name TEXT, uid TEXT NOT NULL, rev INTEGER NOT NULL, digest TEXT NOT NULL,
    body BLOB, deleted INTEGER NOT NULL, PRIMARY KEY(kind, namespace, name));
  CREATE TABLE IF NOT EXISTS outbox_seq(id INTEGER PRIMARY KEY CHECK(id=1), seq INTEGER NOT NULL);
  INSERT OR IGNORE INTO outbox_seq VALUES(1, 0);
  CREATE TABLE IF NOT EXISTS outbox_state(key TEXT PRIMARY KEY, seq INTEGER NOT NULL, body BLOB NOT NULL);
  CREATE TABLE IF NOT EXISTS poison(rev INTEGER PRIMARY KEY, key TEXT NOT NULL, error TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS progress(key TEXT PRIMARY KEY, value TEXT NOT NULL);
`;

/** Epochs, log streams, poison by object, and what was said last with its digest. */
const SECOND = `
  ALTER TABLE sync_state ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
  CREATE INDEX outbox_state_seq ON outbox_state(seq);
  CREATE TABLE said(key TEXT PRIMARY KEY, digest TEXT NOT NULL, body BLOB NOT NULL);
  CREATE TABLE outbox_log(stream TEXT NOT NULL, seq INTEGER NOT NULL, key TEXT NOT NULL, idempotency_key TEXT NOT NULL,
    body BLOB NOT NULL, droppable INTEGER NOT NULL, size INTEGER NOT NULL, at INTEGER NOT NULL, PRIMARY KEY(stream, seq));
  ALTER TABLE outbox_state ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
  CREATE TABLE outbox_bytes(class INTEGER PRIMARY KEY, bytes INTEGER NOT NULL);
  INSERT INTO outbox_bytes VALUES(0, 0), (1, 0);
  CREATE TABLE log_stream(stream TEXT PRIMARY KEY, last INTEGER NOT NULL, dropped INTEGER NOT NULL);
  DROP TABLE poison;
  CREATE TABLE poison(key TEXT PRIMARY KEY, rev INTEGER NOT NULL, error TEXT NOT NULL, attempts INTEGER NOT NULL);
`;

/** What a row says is sealed: bits that flip are found wherever they are. */
const THIRD = 'ALTER TABLE objects ADD COLUMN seal TEXT';

/** What was said last used to be kept as base64 text among the progress. */
function moveSaid(db: SqlDatabase): void {
  db.exec(SECOND);
  const say = db.prepare('INSERT INTO said VALUES(?, ?, ?)');
  for (const row of db.prepare("SELECT key, value FROM progress WHERE key LIKE 'sent/%'").all()) {
    const body = Buffer.from(JSON.parse(String(row['value'])) as string, 'base64');
    say.run(String(row['key']).slice('sent/'.length), digestOf(body), body);
  }
  db.exec("DELETE FROM progress WHERE key LIKE 'sent/%'");
}

/** Steps of the edge store's schema, oldest first. */
export const EDGE_SCHEMA: readonly (string | ((db: SqlDatabase) => void))[] = [
  FIRST,
  moveSaid,
  THIRD,
];
