import { randomUUID } from 'node:crypto';
import { type JoinToken, verifyJoinToken, writeJoinToken } from '@shoal/api';
import {
  type Clock,
  certificateDigest,
  certifyRequest,
  type KeyPair,
  type Logger,
  provesPossession,
  ShoalError,
} from '@shoal/core';
import type { CloudStore } from './cloud-store.ts';

/** A certificate as a node gets it. */
export interface IssuedIdentity {
  readonly certificate: string;
  readonly authority: string;
  readonly validForMs: number;
}

export interface NodeRegistryOptions {
  readonly store: CloudStore;
  readonly authority: KeyPair;
  /** Key of join tokens. */
  readonly key: string;
  readonly clock: Pick<Clock, 'now'>;
  readonly logger: Logger;
  /** Life of a node’s certificate in milliseconds; default 72 h. */
  readonly validForMs?: number;
  /** How long after its end a certificate may still be recovered; default 90 days. */
  readonly graceMs?: number;
}

const HOUR_MS = 3_600_000;
const VALID_FOR_MS = 72 * HOUR_MS;
const GRACE_MS = 90 * 24 * HOUR_MS;
/** A DNS-1123 subdomain, as names of nodes are. */
const NODE_NAME = /^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/;
const MAX_REQUEST_BYTES = 8 * 1024;

/**
 * Who may call itself what: tokens that were used, certificates that were issued, nodes that were
 * revoked. A node has one device: one that joins anew under the name makes the one before a stranger.
 */
export class NodeRegistry {
  readonly #options: NodeRegistryOptions;
  readonly #revokeListeners: ((node: string, reason: string) => void)[] = [];

  constructor(options: NodeRegistryOptions) {
    this.#options = options;
  }

  /** Called with nodes whose live sessions must end. */
  onRevoke(listener: (node: string, reason: string) => void): void {
    this.#revokeListeners.push(listener);
  }

  get authority(): string {
    return this.#options.authority.certificate;
  }

  /** A single-use token for one node. @throws ShoalError `invalid_argument` for a name no node can have. */
  createToken(node: string, validForMs: number): string {
    return createJoinToken(this.#options.key, {
      node,
      authority: this.authority,
      nowMs: this.#options.clock.now(),
      validForMs,
    });
  }

  /**
   * A machine with a token becomes a node.
   *
   * @throws ShoalError `unauthenticated` for a token that is forged, over or used,
   *   `invalid_argument` for a request that is none.
   */
  async join(tokenText: string, request: Uint8Array): Promise<IssuedIdentity> {
    const { store, clock, logger, key } = this.#options;
    const token = verifyJoinToken(key, tokenText);
    if (clock.now() > token.expiresMs)
      throw new ShoalError(
        'unauthenticated',
        `this join token ended ${new Date(token.expiresMs).toISOString()}; make a new one: shoal token create --node ${token.node}`,
      );
    const identity = await this.#issue(token.node, request);
    const fresh = certificateDigest(identity.certificate);
    store.transaction(() => {
      const used = store.get('SELECT 1 FROM used_token WHERE id=?', token.id);
      if (used)
        throw new ShoalError(
          'unauthenticated',
          `this join token was used before; make a new one: shoal token create --node ${token.node}`,
        );
      store.run('INSERT INTO used_token VALUES(?, ?)', token.id, token.expiresMs);
      store.run('DELETE FROM used_token WHERE expires_ms < ?', clock.now() - HOUR_MS);
      store.run("UPDATE device SET state='replaced' WHERE node=? AND digest<>?", token.node, fresh);
      this.#register(token.node, identity, fresh);
    });
    logger.info('node joined', { node: token.node });
    this.#tell(token.node, 'another device has joined under this name');
    return identity;
  }

  /** A new certificate for a node that has shown its present one, of this digest. */
  async renew(node: string, digest: string, request: Uint8Array): Promise<IssuedIdentity> {
    const identity = await this.#issue(node, request);
    const { store, logger } = this.#options;
    store.transaction(() => {
      // It may have been revoked while the new one was made.
      this.expectActive(node, digest);
      this.#register(node, identity, certificateDigest(identity.certificate));
    });
    logger.info('certificate renewed', { node });
    return identity;
  }

  /**
   * A node that was offline when its certificate ended shows that it still has the key.
   *
   * @throws ShoalError `unauthenticated` when the certificate is not ours, was revoked or replaced,
   *   ended too long ago, or the signature is not by its key.
   */
  async recover(
    certificate: string,
    request: Uint8Array,
    signature: Uint8Array,
  ): Promise<IssuedIdentity> {
    const { clock, graceMs = GRACE_MS, store } = this.#options;
    const holds = await provesPossession({
      authority: this.authority,
      certificate,
      signature,
      bytes: request,
    });
    const refused = (why: string): ShoalError =>
      new ShoalError('unauthenticated', `${why}; join again with a new token`);
    if (!holds) throw refused('this certificate is not of this cloud, or its key is not here');
    const digest = certificateDigest(certificate);
    const row = store.get('SELECT node, state, ends_ms FROM device WHERE digest=?', digest);
    if (row?.['state'] !== 'active') throw refused('this certificate was revoked or replaced');
    if (clock.now() > Number(row['ends_ms']) + graceMs)
      throw refused('this certificate ended too long ago');
    return await this.renew(String(row['node']), digest, request);
  }

  async #issue(node: string, request: Uint8Array): Promise<IssuedIdentity> {
    const { authority, clock, validForMs = VALID_FOR_MS } = this.#options;
    if (request.length > MAX_REQUEST_BYTES)
      throw new ShoalError('invalid_argument', 'a certificate request is at most 8 KiB long');
    const certificate = await certifyRequest(authority, request, {
      commonName: `system:node:${node}`,
      organization: 'system:nodes',
      usages: ['client'],
      nowMs: clock.now(),
      validForMs,
    });
    return { certificate, authority: authority.certificate, validForMs };
  }

  #register(node: string, identity: IssuedIdentity, digest: string): void {
    const { store, clock } = this.#options;
    store.run(
      "INSERT OR REPLACE INTO device VALUES(?, ?, 'active', ?, ?)",
      digest,
      node,
      clock.now(),
      clock.now() + identity.validForMs,
    );
    // What was revoked stays: its node has a row for ever, so that no old certificate counts again.
    store.run(
      "DELETE FROM device WHERE ends_ms < ? AND state<>'revoked'",
      clock.now() - 2 * GRACE_MS,
    );
  }

  /**
   * Whether a certificate that TLS has accepted may act for its node. A certificate from before
   * nodes were registered may, until the node is revoked or joins.
   *
   * @throws ShoalError `permission_denied` saying why not.
   */
  expectActive(node: string, digest: string): void {
    const { store } = this.#options;
    const row = store.get('SELECT node, state FROM device WHERE digest=?', digest);
    if (row?.['state'] === 'active' && row['node'] === node) return;
    const why =
      row === undefined
        ? store.get('SELECT 1 FROM device WHERE node=? LIMIT 1', node) && 'is not known any more'
        : `was ${String(row['state'])}`;
    if (why === undefined) return;
    throw new ShoalError(
      'permission_denied',
      `the certificate of node ${node} ${why}; join again with a new token`,
    );
  }

  /** The node uses this certificate now: older ones are not needed any more. */
  confirm(node: string, digest: string): void {
    const { store } = this.#options;
    const older = store.get(
      "SELECT 1 FROM device WHERE node=? AND digest<>? AND state='active' AND issued_ms <= (SELECT issued_ms FROM device WHERE digest=?)",
      node,
      digest,
      digest,
    );
    if (!older) return;
    store.transaction(() =>
      store.run(
        "UPDATE device SET state='replaced' WHERE node=? AND digest<>? AND state='active' AND issued_ms <= (SELECT issued_ms FROM device WHERE digest=?)",
        node,
        digest,
        digest,
      ),
    );
  }

  /** Refuses all certificates of a node from now on, also in live sessions. @returns How many. */
  revoke(node: string): number {
    const { store, clock, logger } = this.#options;
    const active = Number(
      store.get("SELECT COUNT(*) AS n FROM device WHERE node=? AND state='active'", node)?.['n'],
    );
    store.transaction(() => {
      store.run("UPDATE device SET state='revoked' WHERE node=?", node);
      // Also certificates that are not registered: the node has a row now.
      const mark = `revoked:${node}:${randomUUID()}`;
      store.run(
        "INSERT INTO device VALUES(?, ?, 'revoked', ?, ?)",
        mark,
        node,
        clock.now(),
        clock.now() + VALID_FOR_MS,
      );
    });
    logger.warn('node revoked', { node, certificates: active });
    this.#tell(node, 'the node was revoked');
    return active;
  }

  #tell(node: string, reason: string): void {
    for (const listener of this.#revokeListeners) listener(node, reason);
  }

  /** Nodes that ever joined. */
  nodes(): string[] {
    return this.#options.store
      .all('SELECT DISTINCT node FROM device')
      .map((r) => String(r['node']));
  }

  /** State of a node’s newest certificate, and how long it is good. */
  certificateOf(node: string): { state: string; remainingMs: number } {
    const row = this.#options.store.get(
      'SELECT state, ends_ms FROM device WHERE node=? ORDER BY issued_ms DESC, rowid DESC LIMIT 1',
      node,
    );
    const state = row === undefined ? '' : String(row['state']);
    const remainingMs = Math.max(0, Number(row?.['ends_ms'] ?? 0) - this.#options.clock.now());
    return { state: state === 'active' ? 'valid' : state, remainingMs };
  }
}

/** Writes a join token. @throws ShoalError `invalid_argument` for a name no node can have. */
export function createJoinToken(
  key: string,
  options: {
    readonly node: string;
    /** PEM. */
    readonly authority: string;
    readonly nowMs: number;
    readonly validForMs: number;
    readonly server?: string;
    readonly edgeLink?: string;
  },
): string {
  const { node, authority, nowMs, validForMs, ...where } = options;
  if (!NODE_NAME.test(node))
    throw new ShoalError(
      'invalid_argument',
      `"${node}" is no name of a node: lower case letters, digits, "-" and "." are, at most 253`,
    );
  const token: JoinToken = {
    node,
    id: randomUUID(),
    expiresMs: nowMs + validForMs,
    authority: certificateDigest(authority),
    ...where,
  };
  return writeJoinToken(key, token);
}
