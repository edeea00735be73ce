import type {
  Container,
  GroupOverrides,
  HardExampleMining,
  Parameter,
  PodTemplate,
} from '@shoal/api';
import { ShoalError } from '@shoal/core';

type Field = keyof GroupOverrides;

/** Parameter that is the threshold of a mining algorithm. */
const THRESHOLDS: Readonly<Record<string, string>> = {
  Threshold: 'threshold',
  CrossEntropy: 'threshold_cross_entropy',
  IBT: 'threshold_img',
  Margin: 'threshold_margin',
  Entropy: 'threshold_entropy',
  Energy: 'threshold',
  LearnedDeferral: 'threshold',
};

interface Group {
  readonly name: string;
  readonly overrides?: GroupOverrides;
}

/**
 * Refuses what this kind of job could not honour.
 *
 * @param honoured Overrides the kind knows.
 * @throws ShoalError `invalid_argument` naming the group and the field.
 */
export function requireOverrides(groups: readonly Group[], honoured: readonly Field[]): void {
  const seen = new Set<string>();
  for (const [i, { name, overrides = {} }] of groups.entries()) {
    const at = `spec.placement.groups[${i}]`;
    if (seen.has(name))
      throw new ShoalError('invalid_argument', `${at}.name: group "${name}" is there twice`);
    seen.add(name);
    const foreign = (Object.keys(overrides) as Field[]).find((f) => !honoured.includes(f));
    if (foreign !== undefined)
      throw new ShoalError(
        'invalid_argument',
        `${at}.overrides.${String(foreign)} means nothing to this kind of job; it has ${honoured.join(', ')}`,
      );
  }
}

/** @throws ShoalError `invalid_argument` for a template that says itself where its pod runs. */
export function requireUnplaced(template: PodTemplate, field: string): void {
  const { nodeName, nodeSelector, affinity } = template.spec ?? { containers: [] };
  const given = nodeName
    ? 'nodeName'
    : nodeSelector && Object.keys(nodeSelector).length > 0
      ? 'nodeSelector'
      : affinity !== undefined && 'affinity';
  if (given)
    throw new ShoalError(
      'invalid_argument',
      `${field}.spec.${given} and spec.placement both say where the worker runs; take one away`,
    );
}

/** Parameters of which some are replaced; those that are new come last. */
export function mergeParameters(
  base: readonly Parameter[] | undefined,
  over: readonly Parameter[] | undefined,
): Parameter[] {
  const merged = new Map((base ?? []).map((p) => [p.key, p.value]));
  for (const { key, value } of over ?? []) merged.set(key, value);
  return [...merged].map(([key, value]) => ({ key, value }));
}

/**
 * Hard example mining as it is in a group.
 *
 * @throws ShoalError `invalid_argument` for a threshold of an algorithm that has none.
 */
export function miningOf(
  mining: HardExampleMining,
  overrides: GroupOverrides | undefined,
): HardExampleMining {
  const { parameters, threshold } = overrides ?? {};
  if (parameters === undefined && threshold === undefined) return mining;
  const key = Object.hasOwn(THRESHOLDS, mining.name) ? THRESHOLDS[mining.name] : undefined;
  if (threshold !== undefined && key === undefined)
    throw new ShoalError(
      'invalid_argument',
      `spec.placement: hard example mining ${mining.name} has no threshold that a group could override`,
    );
  const given = threshold === undefined || !key ? [] : [{ key, value: String(threshold) }];
  return {
    ...mining,
    parameters: mergeParameters(mergeParameters(mining.parameters, parameters), given),
  };
}

/** Value of the threshold among parameters, if the algorithm has one. */
export function thresholdOf({ name, parameters }: HardExampleMining): string | undefined {
  const key = Object.hasOwn(THRESHOLDS, name) ? THRESHOLDS[name] : undefined;
  return parameters?.find((p) => p.key === key)?.value;
}

function overridden(container: Container, { env, resources }: GroupOverrides): Container {
  const names = new Set((env ?? []).map((e) => e.name));
  const own = (container['resources'] ?? {}) as { limits?: object; requests?: object };
  return {
    ...container,
    ...(env ? { env: [...(container.env ?? []).filter((e) => !names.has(e.name)), ...env] } : {}),
    ...(resources
      ? {
          resources: {
            ...own,
            ...(resources.limits && { limits: { ...own.limits, ...resources.limits } }),
            ...(resources.requests && { requests: { ...own.requests, ...resources.requests } }),
          },
        }
      : {}),
  };
}

/** A template as it is in a group: its variables and resources replaced, and on one node where one is given. */
export function templateOf(
  template: PodTemplate,
  overrides: GroupOverrides | undefined,
  node?: string,
): PodTemplate {
  const { spec = { containers: [] } } = template;
  return {
    ...template,
    spec: {
      ...spec,
      ...(node === undefined ? {} : { nodeName: node }),
      containers: overrides
        ? spec.containers.map((c) => overridden(c, overrides))
        : spec.containers,
    },
  };
}
