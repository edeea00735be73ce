import type { IncomingMessage } from 'node:http';
import {
  authenticate,
  impersonated,
  type TokenTable,
  type User,
  userOfToken,
} from './authenticate.ts';
import { type Authorizer, serviceAccountOf, serviceAccountUser, verbOf } from './authorize.ts';
import type { RequestLog } from './request-log.ts';
import type { ServiceAccountTokens } from './service-account-tokens.ts';
import { StatusError } from './status-error.ts';
import type { WriteGuard } from './verbs.ts';

/** A URL of the API, taken apart: `/api/v1/namespaces/n/pods/p/log` and its kin. */
export interface ResourcePath {
  readonly group: string;
  readonly version: string;
  readonly plural: string;
  readonly namespace: string | undefined;
  readonly name: string | undefined;
  readonly subresource: string | undefined;
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new StatusError('BadRequest', `the URL is not valid: ${part}`);
  }
}

/** Undefined for what is no resource: discovery, health, OpenAPI. */
export function parsePath(path: string): ResourcePath | undefined {
  const parts = path.split('/').slice(1).map(decoded);
  const core = parts[0] === 'api';
  if (!core && parts[0] !== 'apis') return undefined;
  const [group = '', version = ''] = core ? ['', parts[1]] : [parts[1], parts[2]];
  const rest = parts.slice(core ? 2 : 3).filter((p) => p !== '');
  const scoped =
    rest[0] === 'namespaces' && rest.length > 2 && rest[2] !== 'status' && rest[2] !== 'finalize';
  const [plural = '', name, subresource] = scoped ? rest.slice(2) : rest;
  if (plural === '' || rest.length > (scoped ? 5 : 3)) return undefined;
  return { group, version, plural, namespace: scoped ? rest[1] : undefined, name, subresource };
}

/** Who asks, and whether they may. */
export class Access {
  readonly #tokens: TokenTable;
  readonly #accounts: ServiceAccountTokens;
  readonly #log: RequestLog;
  readonly authorizer: Authorizer;

  constructor(options: {
    readonly tokens: TokenTable;
    readonly accounts: ServiceAccountTokens;
    readonly authorizer: Authorizer;
    readonly log: RequestLog;
  }) {
    this.#tokens = options.tokens;
    this.#accounts = options.accounts;
    this.#log = options.log;
    this.authorizer = options.authorizer;
  }

  /** @throws StatusError `Unauthorized` for nobody, `Forbidden` for who may not act as another. */
  identify(request: IncomingMessage): User {
    const user = authenticate(request, this.#tokens, this.#accounts);
    if (!user) throw new StatusError('Unauthorized', 'Unauthorized');
    const other = impersonated(request);
    if (!other) return user;
    const wanted = { verb: 'impersonate', group: '', subresource: '', namespace: '' };
    const account = serviceAccountOf(other.name);
    const whom = account
      ? { resource: 'serviceaccounts', name: account.name, namespace: account.namespace }
      : { resource: 'users', name: other.name };
    this.authorizer.check(user, { ...wanted, ...whom });
    for (const name of other.groups)
      this.authorizer.check(user, { ...wanted, resource: 'groups', name });
    if (!account || other.groups.length > 0) return other;
    return serviceAccountUser(account.namespace, account.name);
  }

  /** Whose token this is; undefined for nobody's. */
  whoHas(token: string): User | undefined {
    return userOfToken(token, this.#tokens, this.#accounts);
  }

  /** @throws StatusError `Forbidden` when no role lets the user do this. */
  check(user: User, method: string, path: ResourcePath, query: URLSearchParams): void {
    const { group, plural: resource, subresource = '' } = path;
    // Rights on one object hold for a list or watch of just that object.
    const selected = /(?:^|,)metadata\.name==?([^,]+)/.exec(query.get('fieldSelector') ?? '')?.[1];
    const name = path.name ?? selected ?? '';
    const watching = query.get('watch');
    const watch = watching === 'true' || watching === '1';
    const verb = verbOf(method, { name: path.name, watch });
    // A namespace is in itself, as far as rights go.
    const namespace = path.namespace ?? (group === '' && resource === 'namespaces' ? name : '');
    const wanted = { verb, group, resource, subresource, namespace, name };
    this.authorizer.check(user, wanted);
    this.#log.note(user, wanted);
  }

  /**
   * What only the object itself tells: whether it may be created by an apply, and, for roles and
   * bindings, whether it gives rights its writer has not.
   */
  guard(user: User, path: ResourcePath): WriteGuard {
    const { group, plural: resource, namespace = '' } = path;
    return (object, isNew) => {
      const { name } = object.metadata;
      const wanted = { verb: 'create', group, resource, subresource: '', namespace, name };
      if (isNew) this.authorizer.check(user, wanted);
      this.authorizer.checkGrant(user, object);
    };
  }
}
