import { type ApiObject, digNumber, digObject } from '../object.ts';
import { StatusError } from './status-error.ts';

/** The `scale` view of a workload. */
export function scaleOf(object: ApiObject): ApiObject {
  const labels = digObject(object, 'spec', 'selector', 'matchLabels');
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
    spec: { replicas: digNumber(object, 'spec', 'replicas') ?? 0 },
    status: {
      replicas: digNumber(object, 'status', 'replicas') ?? 0,
      selector: Object.entries(labels)
        .map(([k, v]) => `${k}=${v}`)
        .join(','),
    },
  };
}

/** The replicas a client asks for. */
export function readScale(body: unknown): number {
  const replicas = digNumber(body, 'spec', 'replicas') ?? 0;
  if (!Number.isInteger(replicas) || replicas < 0) {
    throw new StatusError(
      'Invalid',
      'spec.replicas: Invalid value: must be greater than or equal to 0',
    );
  }
  return replicas;
}
