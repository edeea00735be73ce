import { type ApiObject, digList, digString } from '../object.ts';
import type { User } from './authenticate.ts';
import { type ResourceRegistry, storeName } from './resource-registry.ts';
import { StatusError } from './status-error.ts';
import type { Verbs } from './verbs.ts';

/** What somebody wants to do with a resource. */
export interface Attributes {
  readonly verb: string;
  readonly group: string;
  readonly resource: string;
  readonly subresource: string;
  /** Empty: cluster-wide, or all namespaces. */
  readonly namespace: string;
  /** Empty: none in particular. */
  readonly name: string;
}

/** One rule of a role. */
interface Rule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly verbs: readonly string[];
  readonly resourceNames: readonly string[];
  readonly nonResourceURLs: readonly string[];
}

const MASTERS = 'system:masters';
/** Node agents: what the Node authorizer of a real cluster narrows down is trusted here. */
const NODES = 'system:nodes';
export const AUTHENTICATED = 'system:authenticated';
const RBAC = 'rbac.authorization.k8s.io';
const SERVICE_ACCOUNT = 'system:serviceaccount:';

function strings(value: unknown, field: string): string[] {
  return digList(value, field).map(String);
}

function readRule(rule: unknown): Rule {
  return {
    apiGroups: strings(rule, 'apiGroups'),
    resources: strings(rule, 'resources'),
    verbs: strings(rule, 'verbs'),
    resourceNames: strings(rule, 'resourceNames'),
    nonResourceURLs: strings(rule, 'nonResourceURLs'),
  };
}

function allows(rule: Rule, a: Attributes): boolean {
  const full = a.subresource === '' ? a.resource : `${a.resource}/${a.subresource}`;
  const has = (list: readonly string[], value: string): boolean =>
    list.includes('*') || list.includes(value);
  const resource =
    has(rule.resources, full) ||
    (a.subresource !== '' && rule.resources.includes(`*/${a.subresource}`));
  const named = rule.resourceNames.length === 0 || rule.resourceNames.includes(a.name);
  return has(rule.verbs, a.verb) && has(rule.apiGroups, a.group) && resource && named;
}

/**
 * Decides by the roles and bindings that are stored who may do what.
 * Source: Kubernetes documentation, "Using RBAC Authorization".
 */
export class Authorizer {
  readonly #verbs: Verbs;
  readonly #registry: ResourceRegistry;

  constructor(verbs: Verbs, registry: ResourceRegistry) {
    this.#verbs = verbs;
    this.#registry = registry;
  }

  #list(plural: string, namespace?: string): ApiObject[] {
    const resource = this.#registry.find(RBAC, 'v1', plural);
    return resource ? this.#verbs.store.list(storeName(resource), namespace) : [];
  }

  #rulesOf(binding: ApiObject): Rule[] {
    const cluster = digString(binding, 'roleRef', 'kind') === 'ClusterRole';
    const plural = cluster ? 'clusterroles' : 'roles';
    const resource = this.#registry.find(RBAC, 'v1', plural);
    if (!resource) return [];
    const namespace = cluster ? '' : (binding.metadata.namespace ?? '');
    const name = digString(binding, 'roleRef', 'name') ?? '';
    const role = this.#verbs.store.get({ resource: storeName(resource), namespace, name });
    return digList(role, 'rules').map(readRule);
  }

  /** Rules that apply to a user in a namespace (cluster-wide ones included). */
  rulesFor(user: User, namespace: string): Rule[] {
    const mine = (binding: ApiObject): boolean =>
      digList(binding, 'subjects').some((s) => isSubject(s, user, binding));
    const bindings = this.#list('clusterrolebindings');
    if (namespace !== '') bindings.push(...this.#list('rolebindings', namespace));
    return bindings.filter(mine).flatMap((b) => this.#rulesOf(b));
  }

  /** True for those who may do anything. */
  isTrusted(user: User): boolean {
    return user.groups.includes(MASTERS) || user.groups.includes(NODES);
  }

  may(user: User, wanted: Attributes): boolean {
    if (this.isTrusted(user)) return true;
    return this.rulesFor(user, wanted.namespace).some((rule) => allows(rule, wanted));
  }

  /**
   * Nobody gives rights away that they have not, unless they may `escalate` or `bind`.
   *
   * @throws StatusError `Forbidden` for a role or binding that would.
   */
  checkGrant(user: User, object: ApiObject): void {
    if (this.isTrusted(user) || !object.apiVersion.startsWith(`${RBAC}/`)) return;
    const { kind, metadata } = object;
    const { name, namespace = '' } = metadata;
    const isBinding = kind.endsWith('Binding');
    const role = digString(object, 'roleRef', 'name') ?? '';
    const ofCluster = (isBinding ? digString(object, 'roleRef', 'kind') : kind) === 'ClusterRole';
    const wanted = {
      verb: isBinding ? 'bind' : 'escalate',
      group: RBAC,
      resource: ofCluster ? 'clusterroles' : 'roles',
      subresource: '',
      namespace,
      name: isBinding ? role : name,
    };
    if (this.may(user, wanted)) return;
    const granted = isBinding ? this.#rulesOf(object) : digList(object, 'rules').map(readRule);
    const own = this.rulesFor(user, namespace);
    if (granted.every((rule) => covers(own, rule))) return;
    const message = `${kind.toLowerCase()}s.${RBAC} "${name}" is forbidden: user "${user.name}" is attempting to grant RBAC permissions not currently held`;
    throw new StatusError('Forbidden', message, { name, group: RBAC, kind });
  }

  /** @throws StatusError `Forbidden` in Kubernetes' words. */
  check(user: User, wanted: Attributes): void {
    if (this.may(user, wanted)) return;
    const { verb, group, resource, subresource, namespace, name } = wanted;
    const full = subresource === '' ? resource : `${resource}/${subresource}`;
    const where = namespace === '' ? 'at the cluster scope' : `in the namespace "${namespace}"`;
    const kind = group === '' ? resource : `${resource}.${group}`;
    const what = name === '' ? `${kind} is forbidden` : `${kind} "${name}" is forbidden`;
    throw new StatusError(
      'Forbidden',
      `${what}: User "${user.name}" cannot ${verb} resource "${full}" in API group "${group}" ${where}`,
      { name, ...(group ? { group } : {}), kind: resource },
    );
  }
}

/** True when rules allow everything that another one does. */
function covers(own: readonly Rule[], rule: Rule): boolean {
  const names = rule.resourceNames.length > 0 ? rule.resourceNames : [''];
  const urls = rule.nonResourceURLs.every((url) =>
    own.some((o) => o.nonResourceURLs.includes(url) || o.nonResourceURLs.includes('*')),
  );
  return (
    urls &&
    rule.verbs.every((verb) =>
      rule.apiGroups.every((group) =>
        rule.resources.every((full) => {
          const [resource = '', subresource = ''] = full.split('/');
          return names.every((name) => {
            const wanted = { verb, group, resource, subresource, namespace: '', name };
            return own.some((o) => allows(o, wanted));
          });
        }),
      ),
    )
  );
}

function isSubject(subject: unknown, user: User, binding: ApiObject): boolean {
  const name = digString(subject, 'name') ?? '';
  const kind = digString(subject, 'kind') ?? '';
  switch (kind) {
    case 'User':
      return name === user.name;
    case 'Group':
      return user.groups.includes(name) || name === AUTHENTICATED;
    case 'ServiceAccount': {
      const namespace = digString(subject, 'namespace') ?? binding.metadata.namespace ?? '';
      return user.name === `${SERVICE_ACCOUNT}${namespace}:${name}`;
    }
    default:
      return false;
  }
}

/** The account a user name stands for; undefined for a user of another sort. */
export function serviceAccountOf(
  user: string,
): { readonly namespace: string; readonly name: string } | undefined {
  const [, namespace, name] = /^system:serviceaccount:([^:]+):([^:]+)$/.exec(user) ?? [];
  return namespace !== undefined && name !== undefined ? { namespace, name } : undefined;
}

/** The user a service account's token stands for. */
export function serviceAccountUser(namespace: string, name: string, uid?: string): User {
  return {
    name: `${SERVICE_ACCOUNT}${namespace}:${name}`,
    groups: ['system:serviceaccounts', `system:serviceaccounts:${namespace}`],
    ...(uid === undefined ? {} : { uid }),
  };
}

const BY_METHOD: Readonly<Record<string, string>> = {
  POST: 'create',
  PUT: 'update',
  PATCH: 'patch',
};

/** The verb that a request needs, as RBAC names it. */
export function verbOf(
  method: string,
  at: { readonly name: string | undefined; readonly watch: boolean },
): string {
  if (method === 'GET' || method === 'HEAD') {
    if (at.name !== undefined) return 'get';
    return at.watch ? 'watch' : 'list';
  }
  if (method === 'DELETE') return at.name === undefined ? 'deletecollection' : 'delete';
  return BY_METHOD[method] ?? method.toLowerCase();
}
