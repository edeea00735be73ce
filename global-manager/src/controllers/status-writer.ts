import { isDeepStrictEqual } from 'node:util';
import type { KubernetesObject } from '@shoal/api';
import type { KubeApi, KubeObject } from '../kube/kube-api.ts';
import type { ObjectCache } from '../reconcile/object-cache.ts';

/** Writes an object's status when it differs; the one place where status is written. */
export async function writeStatus(
  api: KubeApi,
  cache: ObjectCache,
  object: KubernetesObject & { readonly status?: unknown },
  status: object,
): Promise<void> {
  const clean: unknown = JSON.parse(JSON.stringify(status));
  if (isDeepStrictEqual(clean, object.status)) return;
  const updated = await api.update(
    cache.kind,
    { ...object, status: clean } as unknown as KubeObject,
    'status',
  );
  cache.observe(updated);
}
