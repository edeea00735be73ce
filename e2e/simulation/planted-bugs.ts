import { registerHooks } from 'node:module';

/** A change of one file of the product: `find` must be there once. */
interface Patch {
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

/**
 * Faults others have shipped, as changes of our code. The simulation must find each of them: a
 * test that cannot fail is none.
 */
export const PLANTED_BUGS: Readonly<Record<string, readonly Patch[]>> = {
  'acknowledged before the commit (F4)': [
    {
      file: 'local-controller/src/link/link.ts',
      find: 'output = this.#core.receive(frame);',
      replace: `if (frame.frame.case === 'batch' && !frame.frame.value.reconcile)
          connection.send(create(EdgeFrameSchema, { frame: { case: 'ack', value: { cursor: frame.frame.value.to } } }));
        output = this.#core.receive(frame);`,
    },
  ],
  'a batch and its cursor in separate transactions': [
    {
      file: 'local-controller/src/link/edge-link-core.ts',
      find: `const { nacks, changed } = this.#db.transaction(() => {
      const gone = batch.snapshot`,
      replace: `const { nacks, changed } = ((body: () => Applied) => body())(() => {
      const gone = batch.snapshot`,
    },
  ],
  'a gap in the feed is passed over': [
    {
      file: 'local-controller/src/link/edge-link-core.ts',
      find: 'if (storeId !== batch.storeId || Number(batch.from) !== cursor) return this.#gap(cursor);',
      replace: '',
    },
  ],
  'a delete must have the uid that is here (F3 as it is usually written)': [
    {
      file: 'local-controller/src/link/edge-link-core.ts',
      find: `    if (change.op === 'delete') {
`,
      replace: `    if (change.op === 'delete') {
      if (known.uid !== change.uid) return '';
`,
    },
  ],
  'commits that are not on the disk yet': [
    {
      file: 'local-controller/src/store/database.ts',
      find: 'PRAGMA synchronous=FULL;',
      replace: 'PRAGMA synchronous=OFF;',
    },
  ],
  'the loop of the link ends at its first error (F20)': [
    {
      file: 'local-controller/src/link/link.ts',
      find: `    try {
      connection.send(this.#core.hello());
    } catch (error) {`,
      replace: `    connection.send(this.#core.hello());
    try {
    } catch (error) {`,
    },
    {
      file: 'local-controller/src/link/link.ts',
      find: `await this.#session(signal).catch(
        (error: unknown): Ending => ({ reason: messageOf(error), retryAfterMs: 0, spreadMs: 0 }),
      );`,
      replace: 'await this.#session(signal);',
    },
  ],
  'a half-open connection is never noticed (F5)': [
    {
      file: 'local-controller/src/link/link.ts',
      find: 'if (silentMs >= SILENCE_MS) {',
      replace: 'if (silentMs >= Number.POSITIVE_INFINITY) {',
    },
  ],
  'what was sent is taken for delivered (F6)': [
    {
      file: 'local-controller/src/link/upstream.ts',
      find: 'this.#sent.set(stream, seq);',
      replace: 'this.#sent.set(stream, seq); this.#outbox.acknowledge(stream, seq);',
    },
  ],
  'a record is acknowledged although it could not be stored': [
    {
      file: 'global-manager/src/edge-link/hub.ts',
      find: `this.#end(work.session, 'the cloud cannot store records now', 5_000);`,
      replace: `for (const frame of work.frames)
      if (!isHello(frame)) work.session.acknowledge(frame.stream, Number(frame.seq));`,
    },
  ],
  'a record that comes twice takes effect twice': [
    {
      file: 'global-manager/src/edge-link/hub.ts',
      find: `if (order === 'again') return () => undefined;`,
      replace: '',
    },
    {
      file: 'global-manager/src/edge-link/records.ts',
      find: `if (record.seq <= last) return 'known';`,
      replace: '',
    },
    {
      file: 'global-manager/src/edge-link/records.ts',
      find: `'INSERT OR IGNORE INTO log(`,
      replace: `'INSERT OR REPLACE INTO log(`,
    },
    {
      file: 'global-manager/src/edge-link/records.ts',
      find: 'if (isLog && record.seq !== last + 1 && record.seq !== record.first && !isHeld) return',
      replace: `if (isLog && record.seq > last + 1 && record.seq !== record.first) return`,
    },
  ],
  'a record that was lost on the way is passed over': [
    {
      file: 'global-manager/src/edge-link/session.ts',
      find: `if (record.previous !== last) return 'gap';`,
      replace: '',
    },
  ],
  'a second device takes the place of the first (F19)': [
    {
      file: 'global-manager/src/edge-link/hub.ts',
      find: 'if (!present || present.hello?.bootId === hello.bootId) return this.#admit(session, hello);',
      replace: 'if (!present || hello) return this.#admit(session, hello);',
    },
  ],
  'nodes that lose sight of an object are not told': [
    {
      file: 'global-manager/src/edge-link/feed.ts',
      find: 'if (!bodies.has(node) && this.#append(node, key, undefined)) nodes.push(node);',
      replace: 'if (bodies.size === 0 && this.#append(node, key, undefined)) nodes.push(node);',
    },
  ],
  'a compacted feed is served as if it were whole': [
    {
      file: 'global-manager/src/edge-link/session.ts',
      find: ' && cursor >= compacted',
      replace: '',
    },
  ],
  'a poison message ends the session (F16)': [
    {
      file: 'local-controller/src/link/edge-link-core.ts',
      find: `return 'a change without kind or name';`,
      replace: `throw new Error('cannot decode');`,
    },
  ],
  'what an edge refused is told once': [
    {
      file: 'local-controller/src/link/edge-link-core.ts',
      find: 'if (poison.length === 0) return [];',
      replace: 'if (poison.length >= 0) return [];',
    },
  ],
  'results are dropped when the quota is reached (F17)': [
    {
      file: 'local-controller/src/store/outbox.ts',
      find: `WHERE droppable=1 ORDER BY rowid LIMIT 1`,
      replace: `ORDER BY rowid LIMIT 1`,
    },
  ],
};

/** Makes one of the bugs part of every module loaded from now on. @throws Error when it fits no more. */
export function plant(name: string): void {
  const patches = PLANTED_BUGS[name];
  if (!patches)
    throw new Error(`no bug "${name}"; there are: ${Object.keys(PLANTED_BUGS).join('; ')}`);
  registerHooks({
    load(url, context, next) {
      const loaded = next(url, context);
      const fitting = patches.filter((p) => url.endsWith(`/${p.file}`));
      if (fitting.length === 0) return loaded;
      let source = Buffer.from(loaded.source as Uint8Array).toString('utf8');
      for (const { file, find, replace } of fitting) {
        if (source.split(find).length !== 2)
          throw new Error(
            `the bug "${name}" does not fit ${file} any more: change planted-bugs.ts`,
          );
        source = source.replace(find, () => replace);
      }
      return { ...loaded, source };
    },
  });
}
