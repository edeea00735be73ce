import { timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { TLSSocket } from 'node:tls';
import { StatusError } from './status-error.ts';

export interface User {
  readonly name: string;
  readonly groups: readonly string[];
  readonly uid?: string;
}

/** Bearer tokens and who they stand for. */
export type TokenTable = readonly { readonly token: string; readonly user: User }[];

function fromCertificate(request: IncomingMessage): User | undefined {
  const { socket } = request;
  if (!(socket instanceof TLSSocket) || !socket.authorized) return undefined;
  const subject = socket.getPeerCertificate().subject as unknown as
    | Record<string, unknown>
    | undefined;
  const name = subject?.['CN'];
  if (typeof name !== 'string') return undefined;
  const organization = subject?.['O'];
  const list: unknown[] = Array.isArray(organization) ? organization : [organization];
  const groups = list.filter((o) => typeof o === 'string');
  return { name, groups };
}

function sameText(a: string, b: string): boolean {
  const left = Buffer.from(a);
  const right = Buffer.from(b);
  return left.length === right.length && timingSafeEqual(left, right);
}

/** Who sends this request: by client certificate, else by bearer token; undefined for nobody. */
export function authenticate(
  request: IncomingMessage,
  tokens: TokenTable,
  accounts: { userOf(token: string): User | undefined },
): User | undefined {
  const user = fromCertificate(request);
  if (user) return user;
  const bearer = /^Bearer (.+)$/.exec(request.headers.authorization ?? '')?.[1];
  if (bearer === undefined) return undefined;
  return userOfToken(bearer, tokens, accounts);
}

/** Whose token this is; undefined for nobody's. */
export function userOfToken(
  token: string,
  tokens: TokenTable,
  accounts: { userOf(token: string): User | undefined },
): User | undefined {
  return tokens.find((t) => sameText(t.token, token))?.user ?? accounts.userOf(token);
}

/** Whom a request wants to be taken for (`kubectl --as`); undefined when for nobody else. */
export function impersonated(request: IncomingMessage): User | undefined {
  const name = request.headers['impersonate-user'];
  const asks = Object.keys(request.headers).some((h) => h.startsWith('impersonate-'));
  if (typeof name !== 'string' || name === '') {
    if (!asks) return undefined;
    const message = 'requested impersonation without impersonating a user';
    throw new StatusError('BadRequest', message);
  }
  // Node joins repeated headers of this name with commas.
  const groups = [request.headers['impersonate-group'] ?? []].flat().flatMap((g) => g.split(/, */));
  return { name, groups };
}
