import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Writes the field numbers of the messages that kubectl sends as protobuf, from the published
 * `generated.proto` files of Kubernetes. Run by hand for a new Kubernetes version:
 *
 *   node scripts/protobuf-fields.ts <folder of k8s.io/api> <folder of k8s.io/apimachinery>
 */
const [api = '', machinery = ''] = process.argv.slice(2);

const FILES: readonly (readonly [pkg: string, path: string])[] = [
  ['k8s.io.api.core.v1', join(api, 'core/v1/generated.proto')],
  ['k8s.io.api.apps.v1', join(api, 'apps/v1/generated.proto')],
  ['k8s.io.api.batch.v1', join(api, 'batch/v1/generated.proto')],
  ['k8s.io.api.autoscaling.v1', join(api, 'autoscaling/v1/generated.proto')],
  ['k8s.io.api.autoscaling.v2', join(api, 'autoscaling/v2/generated.proto')],
  ['k8s.io.api.rbac.v1', join(api, 'rbac/v1/generated.proto')],
  ['k8s.io.api.policy.v1', join(api, 'policy/v1/generated.proto')],
  ['k8s.io.api.authorization.v1', join(api, 'authorization/v1/generated.proto')],
  ['k8s.io.api.authentication.v1', join(api, 'authentication/v1/generated.proto')],
  ['k8s.io.apimachinery.pkg.apis.meta.v1', join(machinery, 'pkg/apis/meta/v1/generated.proto')],
  ['k8s.io.apimachinery.pkg.api.resource', join(machinery, 'pkg/api/resource/generated.proto')],
  ['k8s.io.apimachinery.pkg.util.intstr', join(machinery, 'pkg/util/intstr/generated.proto')],
  ['k8s.io.apimachinery.pkg.runtime', join(machinery, 'pkg/runtime/generated.proto')],
];

/** Kinds that `kubectl create …` and `kubectl auth …` send. */
const KINDS: Readonly<Record<string, string>> = {
  'v1/ConfigMap': 'k8s.io.api.core.v1.ConfigMap',
  'v1/Secret': 'k8s.io.api.core.v1.Secret',
  'v1/ServiceAccount': 'k8s.io.api.core.v1.ServiceAccount',
  'v1/Namespace': 'k8s.io.api.core.v1.Namespace',
  'v1/ResourceQuota': 'k8s.io.api.core.v1.ResourceQuota',
  'v1/Service': 'k8s.io.api.core.v1.Service',
  'v1/Pod': 'k8s.io.api.core.v1.Pod',
  'apps/v1/Deployment': 'k8s.io.api.apps.v1.Deployment',
  'batch/v1/Job': 'k8s.io.api.batch.v1.Job',
  'autoscaling/v1/HorizontalPodAutoscaler': 'k8s.io.api.autoscaling.v1.HorizontalPodAutoscaler',
  'autoscaling/v2/HorizontalPodAutoscaler': 'k8s.io.api.autoscaling.v2.HorizontalPodAutoscaler',
  'rbac.authorization.k8s.io/v1/Role': 'k8s.io.api.rbac.v1.Role',
  'rbac.authorization.k8s.io/v1/RoleBinding': 'k8s.io.api.rbac.v1.RoleBinding',
  'rbac.authorization.k8s.io/v1/ClusterRole': 'k8s.io.api.rbac.v1.ClusterRole',
  'rbac.authorization.k8s.io/v1/ClusterRoleBinding': 'k8s.io.api.rbac.v1.ClusterRoleBinding',
  'authorization.k8s.io/v1/SelfSubjectAccessReview':
    'k8s.io.api.authorization.v1.SelfSubjectAccessReview',
  'authorization.k8s.io/v1/SelfSubjectRulesReview':
    'k8s.io.api.authorization.v1.SelfSubjectRulesReview',
  'authentication.k8s.io/v1/TokenRequest': 'k8s.io.api.authentication.v1.TokenRequest',
  'policy/v1/Eviction': 'k8s.io.api.policy.v1.Eviction',
  'authentication.k8s.io/v1/SelfSubjectReview': 'k8s.io.api.authentication.v1.SelfSubjectReview',
};

/** `[name, type, flags]`: flags `r` repeated, `m:<type of values>` a map with text keys. */
type Field = readonly [name: string, type: string, flags: string];
const messages = new Map<string, Record<string, Field>>();

for (const [pkg, path] of FILES) {
  const text = readFileSync(path, 'utf8').replace(/\/\/.*$/gm, '');
  for (const [, name, body = ''] of text.matchAll(/message (\w+) \{([^}]*)\}/g)) {
    const fields: Record<string, Field> = {};
    const qualified = (type: string): string =>
      /^(string|bytes|bool|double|u?int(32|64)|sint(32|64))$/.test(type)
        ? type
        : type.startsWith('.')
          ? type.slice(1)
          : type.includes('.')
            ? type
            : `${pkg}.${type}`;
    for (const [, map, repeated, type = '', field = '', number = ''] of body.matchAll(
      /(?:map<string, ?([\w.]+)>|(?:(repeated)|optional|required) ([\w.]+)) (\w+) = (\d+)/g,
    ))
      fields[number] = map
        ? [field, qualified(map), 'm']
        : [field, qualified(type), repeated ? 'r' : ''];
    messages.set(`${pkg}.${name}`, fields);
  }
}

/** Messages a kind is made of. */
const needed = new Map<string, Record<string, Field>>();
const queue = Object.values(KINDS);
for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
  const fields = messages.get(name);
  if (!fields || needed.has(name)) continue;
  needed.set(name, fields);
  queue.push(...Object.values(fields).map(([, type]) => type));
}
const out = join(import.meta.dirname, '../cluster/src/server/protobuf-fields-generated.json');
const sorted = Object.fromEntries([...needed].toSorted(([a], [b]) => (a < b ? -1 : 1)));
writeFileSync(out, `${JSON.stringify({ kinds: KINDS, messages: sorted })}\n`);
console.log(`${needed.size} messages`);
