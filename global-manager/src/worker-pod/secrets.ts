import type { EnvVar } from '@shoal/api';
import { isJsonObject, ShoalError } from '@shoal/core';
import { type KubeApi, SECRET } from '../kube/kube-api.ts';

/**
 * Storage credentials as environment: endpoint as a value, keys as references to the Secret, so
 * that no key stands in a pod's spec, an annotation or a log.
 *
 * @throws ShoalError `not_found` when the Secret does not exist.
 */
export async function secretEnvironment(
  api: KubeApi,
  namespace: string,
  name: string | undefined,
): Promise<EnvVar[]> {
  if (!name) return [];
  const secret = await api.get(SECRET, namespace, name);
  if (!secret)
    throw new ShoalError('not_found', `Secret "${name}" does not exist in namespace ${namespace}`, {
      retry: 'backoff',
    });
  const annotations = secret.metadata.annotations ?? {};
  const endpoint = annotations['s3-endpoint'];
  const scheme = annotations['s3-usehttps'] === '0' ? 'http' : 'https';
  const keys = isJsonObject(secret['data']) ? Object.keys(secret['data']) : [];
  return [
    ...(endpoint ? [{ name: 'S3_ENDPOINT_URL', value: `${scheme}://${endpoint}` }] : []),
    ...['ACCESS_KEY_ID', 'SECRET_ACCESS_KEY']
      .filter((key) => keys.includes(key))
      .map((key) => ({ name: key, valueFrom: { secretKeyRef: { name, key } } })),
  ];
}
