import { isJsonObject } from '@shoal/core';
import { digList, digString } from '../object.ts';
import { parsePath } from './access.ts';
import type { User } from './authenticate.ts';
import { AUTHENTICATED, type Authorizer } from './authorize.ts';
import { type Exchange, readJson, sendJson } from './exchange.ts';
import type { Resource } from './resource-registry.ts';

/** Whom the answers come from. */
interface Asked {
  readonly authorizer: Authorizer;
  /** Whose token this is; undefined for nobody's. */
  whoHas(token: string): User | undefined;
}

type Answer = (user: User, spec: unknown, asked: Asked) => object;

const DISCOVERY = {
  verbs: ['get'],
  nonResourceURLs: [
    '/api',
    '/api/*',
    '/apis',
    '/apis/*',
    '/healthz',
    '/livez',
    '/openapi',
    '/openapi/*',
    '/readyz',
    '/version',
  ],
};

function accessReview(
  user: User,
  spec: unknown,
  { authorizer }: Pick<Asked, 'authorizer'>,
): object {
  const at = (field: string): string => digString(spec, 'resourceAttributes', field) ?? '';
  const path = digString(spec, 'nonResourceAttributes', 'path');
  if (path !== undefined) return { allowed: authorizer.isTrusted(user) || isDiscovery(path) };
  const wanted = {
    verb: at('verb'),
    group: at('group'),
    resource: at('resource'),
    subresource: at('subresource'),
    namespace: at('namespace'),
    name: at('name'),
  };
  const allowed = authorizer.may(user, wanted);
  return { allowed, ...(allowed ? { reason: 'RBAC: allowed' } : {}) };
}

function isDiscovery(path: string): boolean {
  return DISCOVERY.nonResourceURLs.some((p) =>
    p.endsWith('*') ? path.startsWith(p.slice(0, -1)) : path === p,
  );
}

function rulesReview(user: User, spec: unknown, { authorizer }: Asked): object {
  if (authorizer.isTrusted(user)) {
    return {
      resourceRules: [{ verbs: ['*'], apiGroups: ['*'], resources: ['*'] }],
      nonResourceRules: [{ verbs: ['*'], nonResourceURLs: ['*'] }],
      incomplete: false,
    };
  }
  const rules = authorizer.rulesFor(user, digString(spec, 'namespace') ?? '');
  const resourceRules = rules
    .filter((r) => r.resources.length > 0)
    .map(({ verbs, apiGroups, resources, resourceNames }) => ({
      verbs,
      apiGroups,
      resources,
      ...(resourceNames.length > 0 ? { resourceNames } : {}),
    }));
  return { resourceRules, nonResourceRules: [DISCOVERY], incomplete: false };
}

/** Whom a review is about, when not about who asks. */
function subjectOf(spec: unknown): User {
  return { name: digString(spec, 'user') ?? '', groups: digList(spec, 'groups').map(String) };
}

const AUTHORIZATION = 'authorization.k8s.io';
const AUTHENTICATION = 'authentication.k8s.io';

interface Review {
  readonly group: string;
  readonly kind: string;
  readonly namespaced?: true;
  /** Anybody may ask this of themselves; the others need the right to create such reviews. */
  readonly self?: true;
  readonly answer: Answer;
}

function userInfo({ name, groups, uid }: User): object {
  return { username: name, ...(uid ? { uid } : {}), groups: [...groups, AUTHENTICATED] };
}

const aboutOthers: Answer = (_user, spec, { authorizer }) =>
  accessReview(subjectOf(spec), spec, { authorizer });

/** What clients ask about rights, and who somebody is, by the plural of the kind. */
const REVIEWS: Readonly<Record<string, Review>> = {
  selfsubjectaccessreviews: {
    group: AUTHORIZATION,
    kind: 'SelfSubjectAccessReview',
    self: true,
    answer: accessReview,
  },
  selfsubjectrulesreviews: {
    group: AUTHORIZATION,
    kind: 'SelfSubjectRulesReview',
    self: true,
    answer: rulesReview,
  },
  subjectaccessreviews: {
    group: AUTHORIZATION,
    kind: 'SubjectAccessReview',
    answer: aboutOthers,
  },
  localsubjectaccessreviews: {
    group: AUTHORIZATION,
    kind: 'LocalSubjectAccessReview',
    namespaced: true,
    answer: aboutOthers,
  },
  selfsubjectreviews: {
    group: AUTHENTICATION,
    kind: 'SelfSubjectReview',
    self: true,
    answer: (user) => ({ userInfo: userInfo(user) }),
  },
  tokenreviews: {
    group: AUTHENTICATION,
    kind: 'TokenReview',
    answer: (_user, spec, asked) => {
      const user = asked.whoHas(digString(spec, 'token') ?? '');
      return user ? { authenticated: true, user: userInfo(user) } : { authenticated: false };
    },
  },
};

/** Kinds of reviews, for discovery: answered, but not stored. */
export const REVIEW_RESOURCES: readonly Resource[] = Object.entries(REVIEWS).map(
  ([plural, { group, kind, namespaced }]) => ({
    group,
    version: 'v1',
    kind,
    plural,
    singular: '',
    shortNames: [],
    categories: [],
    namespaced: namespaced === true,
    status: false,
    scale: undefined,
    schema: {},
    columns: [],
    builtin: true,
    verbs: ['create'],
  }),
);

/**
 * Answers `kubectl auth can-i` and `whoami`, and those who ask about others; nothing is stored.
 *
 * @returns False for any other request.
 * @throws StatusError `Forbidden` for who may not ask about others.
 */
export async function answerReview(
  exchange: Exchange,
  user: User,
  access: Asked,
): Promise<boolean> {
  const path = parsePath(exchange.path);
  const plural = path?.plural ?? '';
  const review = Object.hasOwn(REVIEWS, plural) ? REVIEWS[plural] : undefined;
  if (!path || !review || path.group !== review.group || exchange.method !== 'POST') return false;
  const { kind, group, answer } = review;
  const { namespace = '' } = path;
  if (!review.self) {
    const wanted = {
      verb: 'create',
      group,
      resource: plural,
      subresource: '',
      namespace,
      name: '',
    };
    access.authorizer.check(user, wanted);
  }
  const body = await readJson(exchange);
  const spec = isJsonObject(body) ? body['spec'] : undefined;
  const status = answer(user, spec, access);
  sendJson(
    exchange,
    {
      kind,
      apiVersion: `${group}/v1`,
      metadata: { creationTimestamp: null },
      ...(spec === undefined ? {} : { spec }),
      status,
    },
    { code: 201 },
  );
  return true;
}
