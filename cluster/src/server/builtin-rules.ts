import { isDeepStrictEqual } from 'node:util';
import type { FieldError } from '@shoal/core';
import { type ApiObject, digList, digObject, digString } from '../object.ts';
import { definitionFaults } from './definition-rules.ts';
import { isEmptySelector, matchesSelector } from './selectors.ts';

function fault(field: string, message: string): FieldError {
  return { field, reason: 'FieldValueInvalid', message };
}

function required(field: string): FieldError {
  return { field, reason: 'FieldValueRequired', message: 'Required value' };
}

function podSpecFaults(spec: object, path: string): FieldError[] {
  const containers = digList(spec, 'containers');
  if (containers.length === 0) return [required(`${path}.containers`)];
  const faults: FieldError[] = [];
  const names = new Set<string>();
  for (const [i, c] of containers.entries()) {
    const name = digString(c, 'name') ?? '';
    if (names.has(name)) {
      faults.push({
        field: `${path}.containers[${i}].name`,
        reason: 'FieldValueInvalid',
        message: `Duplicate value: "${name}"`,
      });
    }
    names.add(name);
    if (!digString(c, 'image')) faults.push(required(`${path}.containers[${i}].image`));
  }
  const volumes = new Set(digList(spec, 'volumes').map((v) => digString(v, 'name')));
  for (const [i, c] of containers.entries()) {
    for (const [j, m] of digList(c, 'volumeMounts').entries()) {
      const name = digString(m, 'name');
      if (!volumes.has(name)) {
        faults.push({
          field: `${path}.containers[${i}].volumeMounts[${j}].name`,
          reason: 'FieldValueInvalid',
          message: `Not found: "${name}"`,
        });
      }
    }
  }
  return faults;
}

function workloadFaults(object: ApiObject): FieldError[] {
  const labels = digObject(object, 'spec', 'template', 'metadata', 'labels') as Record<
    string,
    string
  >;
  const selector = digObject(object, 'spec', 'selector');
  const faults = podSpecFaults(digObject(object, 'spec', 'template', 'spec'), 'spec.template.spec');
  if (isEmptySelector(selector)) faults.push(required('spec.selector'));
  else if (!matchesSelector(selector, labels)) {
    faults.push(
      fault(
        'spec.template.metadata.labels',
        `Invalid value: ${JSON.stringify(labels)}: \`selector\` does not match template \`labels\``,
      ),
    );
  }
  return faults;
}

function jobFaults(job: ApiObject): FieldError[] {
  const template = digObject(job, 'spec', 'template', 'spec');
  const faults = podSpecFaults(template, 'spec.template.spec');
  const policy = digString(template, 'restartPolicy');
  if (policy !== 'Never' && policy !== 'OnFailure')
    faults.push(
      fault(
        'spec.template.spec.restartPolicy',
        `Unsupported value: ${JSON.stringify(policy ?? '')}: supported values: "OnFailure", "Never"`,
      ),
    );
  if (digString(job, 'spec', 'completionMode') === 'Indexed')
    faults.push(
      fault(
        'spec.completionMode',
        'Invalid value: "Indexed": this embedded cluster runs NonIndexed jobs only',
      ),
    );
  return faults;
}

const CREATE_RULES: Readonly<Record<string, (object: ApiObject) => FieldError[]>> = {
  pods: (o) => podSpecFaults(o.spec ?? {}, 'spec'),
  deployments: workloadFaults,
  replicasets: workloadFaults,
  jobs: jobFaults,
  customresourcedefinitions: definitionFaults,
  services: (o) => (digList(o, 'spec', 'ports').length === 0 ? [required('spec.ports')] : []),
};

/** What Kubernetes checks of its own kinds beyond their schema. */
export function builtinFaults(plural: string, object: ApiObject): FieldError[] {
  return CREATE_RULES[plural]?.(object) ?? [];
}

/** Parts of a pod's spec that may change after creation. */
function frozenPodSpec(object: ApiObject): unknown {
  const { activeDeadlineSeconds: _a, tolerations: _t, nodeName: _n, ...rest } = object.spec ?? {};
  const withoutImage = (c: unknown): unknown => ({ ...(c as object), image: undefined });
  return {
    ...rest,
    containers: digList(rest, 'containers').map(withoutImage),
    initContainers: digList(rest, 'initContainers').map(withoutImage),
  };
}

const IMMUTABLE = 'field is immutable';

/** What may not change in an update of a built-in kind. */
export function immutableFaults(plural: string, next: ApiObject, current: ApiObject): FieldError[] {
  if (plural === 'pods' && !isDeepStrictEqual(frozenPodSpec(next), frozenPodSpec(current))) {
    const message =
      'Forbidden: pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations`';
    return [{ field: 'spec', reason: 'FieldValueInvalid', message }];
  }
  const frozen =
    plural === 'deployments' || plural === 'replicasets'
      ? 'selector'
      : plural === 'jobs'
        ? 'template'
        : undefined;
  if (frozen && !isDeepStrictEqual(next.spec?.[frozen], current.spec?.[frozen])) {
    return [
      fault(
        `spec.${frozen}`,
        `Invalid value: ${JSON.stringify(next.spec?.[frozen])}: ${IMMUTABLE}`,
      ),
    ];
  }
  return [];
}
