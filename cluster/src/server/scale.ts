import { isJsonObject } from '@shoal/core';
import { type ApiObject, dig, digNumber, digObject, digString } from '../object.ts';
import { invalid, StatusError } from './status-error.ts';

/** Where a kind keeps what its `scale` subresource shows. */
export interface ScalePaths {
  readonly specReplicas: readonly string[];
  readonly statusReplicas: readonly string[];
  /** Path of a selector as text; undefined takes `spec.selector.matchLabels`. */
  readonly selector?: readonly string[];
}

/** Those of Deployment and ReplicaSet. */
export const WORKLOAD_SCALE: ScalePaths = {
  specReplicas: ['spec', 'replicas'],
  statusReplicas: ['status', 'replicas'],
};

function pathOf(text: string | undefined): readonly string[] | undefined {
  return text?.split('.').filter((part) => part !== '');
}

/** The paths a CustomResourceDefinition names; undefined when its kind cannot be scaled. */
export function customScale(version: unknown): ScalePaths | undefined {
  const scale = dig(version, 'subresources', 'scale');
  if (!isJsonObject(scale)) return undefined;
  const selector = pathOf(digString(scale, 'labelSelectorPath'));
  return {
    specReplicas: pathOf(digString(scale, 'specReplicasPath')) ?? [],
    statusReplicas: pathOf(digString(scale, 'statusReplicasPath')) ?? [],
    ...(selector ? { selector } : {}),
  };
}

function selectorText(object: ApiObject, paths: ScalePaths): string {
  if (paths.selector) return digString(object, ...paths.selector) ?? '';
  return Object.entries(digObject(object, 'spec', 'selector', 'matchLabels'))
    .map(([k, v]) => `${k}=${String(v)}`)
    .join(',');
}

/** The `scale` view of a workload. */
export function scaleOf(object: ApiObject, paths: ScalePaths): ApiObject {
  const { name, namespace, uid, resourceVersion, creationTimestamp } = object.metadata;
  return {
    apiVersion: 'autoscaling/v1',
    kind: 'Scale',
    metadata: {
      name,
      ...(namespace ? { namespace } : {}),
      ...(uid ? { uid } : {}),
      ...(resourceVersion ? { resourceVersion } : {}),
      ...(creationTimestamp ? { creationTimestamp } : {}),
    },
    spec: { replicas: digNumber(object, ...paths.specReplicas) ?? 0 },
    status: {
      replicas: digNumber(object, ...paths.statusReplicas) ?? 0,
      selector: selectorText(object, paths),
    },
  };
}

function withValue(value: unknown, [key, ...rest]: readonly string[], replicas: number): unknown {
  if (key === undefined) return replicas;
  const here = isJsonObject(value) ? value : {};
  return { ...here, [key]: withValue(here[key], rest, replicas) };
}

/** The object with other replicas. */
export function withReplicas(object: ApiObject, paths: ScalePaths, replicas: number): ApiObject {
  return withValue(object, paths.specReplicas, replicas) as ApiObject;
}

/** The replicas a client asks for. @throws StatusError when they are none, or of another version. */
export function readScale(body: unknown, current: ApiObject): number {
  const replicas = digNumber(body, 'spec', 'replicas') ?? Number.NaN;
  const { name } = current.metadata;
  if (!Number.isInteger(replicas) || replicas < 0) {
    const message = `Invalid value: ${replicas}: must be a whole number greater than or equal to 0`;
    const kind = { group: 'autoscaling', plural: 'scale', kind: 'Scale' };
    throw invalid(kind, name, [{ field: 'spec.replicas', reason: 'FieldValueInvalid', message }]);
  }
  const version = digString(body, 'metadata', 'resourceVersion');
  if (version && version !== current.metadata.resourceVersion) {
    const message = `Operation cannot be fulfilled on scales.autoscaling "${name}": the object has been modified; please apply your changes to the latest version and try again`;
    throw new StatusError('Conflict', message, { name, kind: 'scales' });
  }
  return replicas;
}
