import { isJsonObject } from '@shoal/core';
import { digString } from '../object.ts';
import type { User } from './authenticate.ts';
import { AUTHENTICATED, type Authorizer } from './authorize.ts';
import { type Exchange, readJson, sendJson } from './exchange.ts';

type Answer = (user: User, spec: unknown, authorizer: Authorizer) => object;

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

function accessReview(user: User, spec: unknown, authorizer: Authorizer): object {
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

function rulesReview(user: User, spec: unknown, authorizer: Authorizer): object {
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

/** What clients ask about themselves. */
const REVIEWS: Readonly<Record<string, readonly [kind: string, answer: Answer]>> = {
  '/apis/authorization.k8s.io/v1/selfsubjectaccessreviews': [
    'SelfSubjectAccessReview',
    accessReview,
  ],
  '/apis/authorization.k8s.io/v1/selfsubjectrulesreviews': ['SelfSubjectRulesReview', rulesReview],
  '/apis/authentication.k8s.io/v1/selfsubjectreviews': [
    'SelfSubjectReview',
    ({ name, groups, uid }) => ({
      userInfo: { username: name, ...(uid ? { uid } : {}), groups: [...groups, AUTHENTICATED] },
    }),
  ],
};

/**
 * Answers `kubectl auth can-i` and `kubectl auth whoami`; nothing is stored.
 *
 * @returns False for any other request.
 */
export async function answerReview(
  exchange: Exchange,
  user: User,
  authorizer: Authorizer,
): Promise<boolean> {
  const review = REVIEWS[exchange.path];
  if (!review || exchange.method !== 'POST') return false;
  const [kind, answer] = review;
  const body = await readJson(exchange);
  const spec = isJsonObject(body) ? body['spec'] : undefined;
  const apiVersion = exchange.path.split('/').slice(2, 4).join('/');
  const metadata = { creationTimestamp: null };
  const status = answer(user, spec, authorizer);
  sendJson(
    exchange,
    { kind, apiVersion, metadata, ...(spec === undefined ? {} : { spec }), status },
    { code: 201 },
  );
  return true;
}
