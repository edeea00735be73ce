import { createHmac, timingSafeEqual } from 'node:crypto';
import { ShoalError } from '@shoal/core';
import {
  AskChunkSchema,
  AskRequestSchema,
  IdentitySchema,
  JoinRequestSchema,
  LinksReplySchema,
  LinksRequestSchema,
  RecoverRequestSchema,
  RevokeReplySchema,
  RevokeRequestSchema,
} from './fleet_pb.ts';
import { type MethodBetween, methodsOf } from './grpc-method.ts';

const method = methodsOf('shoal.fleet.v1.Fleet');

export interface FleetMethods {
  readonly join: MethodBetween<typeof JoinRequestSchema, typeof IdentitySchema>;
  readonly recover: MethodBetween<typeof RecoverRequestSchema, typeof IdentitySchema>;
  readonly links: MethodBetween<typeof LinksRequestSchema, typeof LinksReplySchema>;
  readonly revoke: MethodBetween<typeof RevokeRequestSchema, typeof RevokeReplySchema>;
  readonly ask: MethodBetween<typeof AskRequestSchema, typeof AskChunkSchema>;
}

/** The methods of `api/proto/fleet.proto`. */
export const FLEET_METHODS: FleetMethods = {
  join: method('Join', { request: JoinRequestSchema, response: IdentitySchema }),
  recover: method('Recover', { request: RecoverRequestSchema, response: IdentitySchema }),
  links: method('Links', { request: LinksRequestSchema, response: LinksReplySchema }),
  revoke: method('Revoke', { request: RevokeRequestSchema, response: RevokeReplySchema }),
  ask: method('Ask', { request: AskRequestSchema, response: AskChunkSchema }, { response: true }),
};

/** The token of operators: HMAC-SHA256 under the manager's key. */
export function fleetToken(key: string): string {
  return createHmac('sha256', key).update('shoal fleet operator').digest('base64url');
}

/** What a join token says. */
export interface JoinToken {
  /** The node it is for; no other name can be had with it. */
  readonly node: string;
  /** Counts once. */
  readonly id: string;
  /** Milliseconds since the epoch. */
  readonly expiresMs: number;
  /** Digest of the authority's certificate (DER): who shows another one is not our cloud. */
  readonly authority: string;
  /** `host:port` of the fleet service and of EdgeLink, where whoever made the token knew them. */
  readonly server?: string;
  readonly edgeLink?: string;
}

const PREFIX = 'shoal-join';

function signature(key: string, payload: string): string {
  return createHmac('sha256', key).update(`shoal join token\n${payload}`).digest('base64url');
}

export function writeJoinToken(key: string, token: JoinToken): string {
  const payload = Buffer.from(JSON.stringify(token)).toString('base64url');
  return `${PREFIX}.${payload}.${signature(key, payload)}`;
}

/** Reads a token without its key. @throws ShoalError `invalid_argument` for what is none. */
export function readJoinToken(text: string): JoinToken {
  const [prefix, payload = '', , ...rest] = text.trim().split('.');
  try {
    if (prefix !== PREFIX || rest.length > 0 || text.length > 4_096)
      throw new Error('another form');
    const token = JSON.parse(Buffer.from(payload, 'base64url').toString('utf8')) as JoinToken;
    const { node, id, expiresMs, authority } = token;
    if (![node, id, authority].every((part) => typeof part === 'string' && part !== ''))
      throw new Error('a part is missing');
    if (!Number.isFinite(expiresMs)) throw new Error('no end');
    return token;
  } catch (error) {
    throw new ShoalError(
      'invalid_argument',
      `this is not a join token; "shoal token create --node NAME" prints one (${PREFIX}.….…)`,
      { cause: error },
    );
  }
}

/** Reads a token and checks who made it. @throws ShoalError `unauthenticated` for a forged one. */
export function verifyJoinToken(key: string, text: string): JoinToken {
  const token = readJoinToken(text);
  const [, payload = '', given = ''] = text.trim().split('.');
  const [a, b] = [Buffer.from(signature(key, payload)), Buffer.from(given)];
  if (a.length !== b.length || !timingSafeEqual(a, b))
    throw new ShoalError('unauthenticated', 'this join token was not made by this cloud');
  return token;
}
