import { isJsonObject } from '@shoal/core';
import type { User } from './authenticate.ts';
import { type Exchange, readJson, sendJson } from './exchange.ts';

const NOT_ENFORCED = 'this embedded cluster stores RBAC objects but does not enforce them';

type Answer = (user: User) => object;

/** What clients ask about themselves: everybody who is known may do everything here. */
const REVIEWS: Readonly<Record<string, readonly [kind: string, answer: Answer]>> = {
  '/apis/authorization.k8s.io/v1/selfsubjectaccessreviews': [
    'SelfSubjectAccessReview',
    () => ({ allowed: true, reason: NOT_ENFORCED }),
  ],
  '/apis/authorization.k8s.io/v1/selfsubjectrulesreviews': [
    'SelfSubjectRulesReview',
    () => ({
      resourceRules: [{ verbs: ['*'], apiGroups: ['*'], resources: ['*'] }],
      nonResourceRules: [{ verbs: ['*'], nonResourceURLs: ['*'] }],
      incomplete: false,
    }),
  ],
  '/apis/authentication.k8s.io/v1/selfsubjectreviews': [
    'SelfSubjectReview',
    ({ name, groups }) => ({
      userInfo: { username: name, groups: [...groups, 'system:authenticated'] },
    }),
  ],
};

/**
 * Answers `kubectl auth can-i` and `kubectl auth whoami`; nothing is stored.
 *
 * @returns False for any other request.
 */
export async function answerReview(exchange: Exchange, user: User): Promise<boolean> {
  const review = REVIEWS[exchange.path];
  if (!review || exchange.method !== 'POST') return false;
  const [kind, answer] = review;
  const body = await readJson(exchange);
  const spec = isJsonObject(body) ? body['spec'] : undefined;
  const apiVersion = exchange.path.split('/').slice(2, 4).join('/');
  const metadata = { creationTimestamp: null };
  const status = answer(user);
  sendJson(
    exchange,
    { kind, apiVersion, metadata, ...(spec === undefined ? {} : { spec }), status },
    { code: 201 },
  );
  return true;
}
