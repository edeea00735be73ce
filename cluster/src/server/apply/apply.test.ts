import { isJsonObject } from '@shoal/core';
import { expect, test } from 'vitest';
import type { ApiObject } from '../../object.ts';
import { BUILTIN_RESOURCES, BUILTIN_SCHEMAS } from '../builtin-resources.ts';
import { type Resource, ResourceRegistry } from '../resource-registry.ts';
import { StatusError } from '../status-error.ts';
import { applyConfig, trackUpdate } from './apply.ts';
import recorded from './recorded-cases-generated.json' with { type: 'json' };

interface Step {
  readonly op: string;
  readonly manager: string;
  readonly force?: boolean;
  readonly object: ApiObject;
  readonly result?: ApiObject;
  readonly error?: string;
}

const registry = new ResourceRegistry(BUILTIN_RESOURCES, BUILTIN_SCHEMAS);
const deployments = registry.find('apps', 'v1', 'deployments') as Resource;
const things: Resource = {
  ...deployments,
  group: 'example.org',
  kind: 'Thing',
  plural: 'things',
  schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true },
  builtin: false,
};

function run(step: Step, current: ApiObject | undefined, resource: Resource): ApiObject {
  const operation = step.op === 'apply' ? 'Apply' : 'Update';
  const { apiVersion } = step.object;
  const manager = { name: step.manager, operation, apiVersion } as const;
  const tracking = { resource, resolve: registry.resolveRef, nowMs: 0, manager };
  if (operation === 'Apply')
    return applyConfig(current, step.object, { ...tracking, force: step.force === true });
  const next = structuredClone(step.object);
  trackUpdate(current, next, tracking);
  return next;
}

/** A map that loses its last entry becomes null there and empty here. */
function withoutEmpties(value: unknown): unknown {
  if (Array.isArray(value)) return value.length === 0 ? undefined : value.map(withoutEmpties);
  if (!isJsonObject(value)) return value ?? undefined;
  const entries = Object.entries(value).map(
    ([key, inner]) => [key, withoutEmpties(inner)] as const,
  );
  const kept = entries.filter(([, inner]) => inner !== undefined);
  return kept.length === 0 ? undefined : Object.fromEntries(kept);
}

function withoutTime(object: ApiObject): unknown {
  const { managedFields, creationTimestamp: _c, ...metadata } = object.metadata;
  const owners = (managedFields ?? []) as { time?: string; manager: string; operation: string }[];
  const bare = owners.map(({ time: _t, ...owner }) => owner);
  const rank = (o: (typeof bare)[number]): string => `${o.operation}/${o.manager}`;
  return {
    object: withoutEmpties({ ...object, metadata }),
    owners: bare.toSorted((a, b) => (rank(a) < rank(b) ? -1 : 1)),
  };
}

/** Times differ from run to run; the lines of a message come in the order of a hash map. */
function withoutTimes(message: string): string[] {
  return message
    .replaceAll(/ at \d{4}-\S+Z/g, '')
    .split('\n')
    .toSorted();
}

test.each((recorded as { kind: string; steps: Step[] }[]).map((c, i) => [i, c] as const))(
  'Kubernetes’ own field manager does the same in recorded case %i',
  (_, { kind, steps }) => {
    let current: ApiObject | undefined;
    for (const [at, step] of steps.entries()) {
      let outcome: unknown;
      try {
        current = run(step, current, kind === 'Thing' ? things : deployments);
        outcome = withoutTime(current);
      } catch (error) {
        if (!(error instanceof StatusError)) throw error;
        outcome = withoutTimes(error.message);
      }
      const wanted = step.result ? withoutTime(step.result) : withoutTimes(step.error ?? '');
      expect(outcome, `step ${at}`).toEqual(wanted);
    }
  },
);
