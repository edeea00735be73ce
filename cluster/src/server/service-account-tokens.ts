import { createHmac, timingSafeEqual } from 'node:crypto';
import { join } from 'node:path';
import { type Clock, isJsonObject, rfc3339 } from '@shoal/core';
import { keyFile } from '../key-file.ts';
import { digList, digNumber, digString } from '../object.ts';
import type { User } from './authenticate.ts';
import { serviceAccountUser } from './authorize.ts';
import { type Exchange, readJson, refuse, sendJson } from './exchange.ts';
import type { ResourceRegistry } from './resource-registry.ts';
import type { Verbs } from './verbs.ts';

const ISSUER = 'https://kubernetes.default.svc';
const DEFAULT_SECONDS = 3600;
const MIN_SECONDS = 600;
const MAX_SECONDS = 2 ** 32;

function encoded(value: unknown): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url');
}

function decoded(part: string): unknown {
  try {
    return JSON.parse(Buffer.from(part, 'base64url').toString('utf8'));
  } catch {
    return undefined;
  }
}

/**
 * Tokens of service accounts, signed by the cluster: JSON Web Tokens (RFC 7519, HS256) that end
 * with their time or with their account.
 */
export class ServiceAccountTokens {
  readonly #key: Buffer;
  readonly #verbs: Verbs;
  readonly #registry: ResourceRegistry;
  readonly #clock: Clock;

  constructor(
    dataDir: string,
    ports: { readonly verbs: Verbs; readonly registry: ResourceRegistry; readonly clock: Clock },
  ) {
    this.#key = keyFile(join(dataDir, 'service-accounts.key'));
    this.#verbs = ports.verbs;
    this.#registry = ports.registry;
    this.#clock = ports.clock;
  }

  #sign(text: string): string {
    return createHmac('sha256', this.#key).update(text).digest('base64url');
  }

  #accountUid(namespace: string, name: string): string | undefined {
    const resource = this.#registry.find('', 'v1', 'serviceaccounts');
    if (!resource) return undefined;
    return this.#verbs.store.get({ resource: '/serviceaccounts', namespace, name })?.metadata.uid;
  }

  /** Answers `kubectl create token`: `POST …/serviceaccounts/name/token`. */
  async issue(exchange: Exchange, namespace: string, name: string): Promise<void> {
    const resource = this.#registry.find('', 'v1', 'serviceaccounts');
    if (!resource || exchange.method !== 'POST')
      refuse('MethodNotAllowed', `${exchange.method} is not supported on ${exchange.path}`);
    const body = await readJson(exchange);
    const { uid = '' } = this.#verbs.get({ resource, namespace, name }).metadata;
    const seconds = digNumber(body, 'spec', 'expirationSeconds') ?? DEFAULT_SECONDS;
    if (seconds < MIN_SECONDS || seconds > MAX_SECONDS) {
      const range = seconds < MIN_SECONDS ? 'less than 10 minutes' : 'larger than 2^32 seconds';
      refuse(
        'Invalid',
        `TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: ${seconds}: may not specify a duration ${range}`,
      );
    }
    const given = digList(body, 'spec', 'audiences').map(String);
    const audiences = given.length > 0 ? given : [ISSUER];
    const { token, issuedMs } = this.create({ namespace, name, uid }, seconds, audiences);
    const answer = {
      kind: 'TokenRequest',
      apiVersion: 'authentication.k8s.io/v1',
      metadata: { name, namespace, creationTimestamp: rfc3339(issuedMs) },
      spec: { audiences, expirationSeconds: seconds },
      status: { token, expirationTimestamp: rfc3339(issuedMs + seconds * 1000) },
    };
    sendJson(exchange, answer, { code: 201 });
  }

  /** Makes a token of an account that ends after some seconds. */
  create(
    account: { readonly namespace: string; readonly name: string; readonly uid: string },
    seconds: number,
    audiences: readonly string[] = [ISSUER],
  ): { readonly token: string; readonly issuedMs: number } {
    const { namespace, name, uid } = account;
    const now = Math.floor(this.#clock.now() / 1000);
    const payload = {
      iss: ISSUER,
      sub: serviceAccountUser(namespace, name).name,
      aud: audiences,
      iat: now,
      nbf: now,
      exp: now + seconds,
      'kubernetes.io': { namespace, serviceaccount: { name, uid } },
    };
    const text = `${encoded({ alg: 'HS256', typ: 'JWT' })}.${encoded(payload)}`;
    return { token: `${text}.${this.#sign(text)}`, issuedMs: now * 1000 };
  }

  /** Whose token this is; undefined when it is none of ours, has ended, or its account is gone. */
  userOf(token: string): User | undefined {
    const [head = '', body = '', signature = '', ...more] = token.split('.');
    const right = Buffer.from(this.#sign(`${head}.${body}`));
    const given = Buffer.from(signature);
    if (more.length > 0 || right.length !== given.length || !timingSafeEqual(right, given))
      return undefined;
    const payload = decoded(body);
    const account = isJsonObject(payload) ? payload['kubernetes.io'] : undefined;
    const namespace = digString(account, 'namespace') ?? '';
    const name = digString(account, 'serviceaccount', 'name') ?? '';
    const uid = digString(account, 'serviceaccount', 'uid');
    const ended = (digNumber(payload, 'exp') ?? 0) * 1000 <= this.#clock.now();
    const ours = digList(payload, 'aud').includes(ISSUER);
    if (ended || !ours || uid !== this.#accountUid(namespace, name)) return undefined;
    return serviceAccountUser(namespace, name, uid);
  }
}
