/** Tables of the knowledge base. Rows are only added or moved forward, so versions can be told apart. */
export const SCHEMA = `
  CREATE TABLE IF NOT EXISTS jobs (
    job TEXT PRIMARY KEY, version INTEGER NOT NULL, stored_bytes INTEGER NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS tasks (
    job TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, model TEXT NOT NULL,
    attributes TEXT NOT NULL, model_bytes INTEGER NOT NULL, samples INTEGER NOT NULL,
    metrics TEXT NOT NULL, classes TEXT NOT NULL, knowledge TEXT NOT NULL, since INTEGER NOT NULL,
    PRIMARY KEY (job, name, revision, model)) STRICT;
  CREATE TABLE IF NOT EXISTS verdicts (
    job TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, model TEXT NOT NULL,
    state INTEGER NOT NULL, reason TEXT NOT NULL, metrics TEXT NOT NULL, since INTEGER NOT NULL,
    PRIMARY KEY (job, name, revision, model, state, reason, metrics)) STRICT;
  CREATE TABLE IF NOT EXISTS shared (
    job TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, value TEXT NOT NULL,
    since INTEGER NOT NULL, PRIMARY KEY (job, name, revision, value)) STRICT;
  CREATE TABLE IF NOT EXISTS relations (
    job TEXT NOT NULL, from_task TEXT NOT NULL, to_task TEXT NOT NULL, kind TEXT NOT NULL,
    revision INTEGER NOT NULL, value REAL NOT NULL, since INTEGER NOT NULL,
    PRIMARY KEY (job, from_task, to_task, kind, revision, value)) STRICT;
  CREATE TABLE IF NOT EXISTS samples (
    job TEXT NOT NULL, id TEXT NOT NULL, edge TEXT NOT NULL, task TEXT NOT NULL,
    attributes TEXT NOT NULL, shape TEXT NOT NULL, inputs BLOB NOT NULL,
    recorded_at INTEGER NOT NULL, since INTEGER NOT NULL, PRIMARY KEY (job, id)) STRICT;
  CREATE TABLE IF NOT EXISTS labels (
    job TEXT NOT NULL, sample TEXT NOT NULL, label INTEGER NOT NULL, given_by TEXT NOT NULL,
    given_at INTEGER NOT NULL, since INTEGER NOT NULL, PRIMARY KEY (job, sample)) STRICT;
  CREATE TABLE IF NOT EXISTS usage (
    job TEXT NOT NULL, edge TEXT NOT NULL, counter TEXT NOT NULL, value INTEGER NOT NULL,
    PRIMARY KEY (job, edge, counter)) STRICT;`;
