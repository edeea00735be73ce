import { isJsonObject, ShoalError } from '@shoal/core';
import { Client } from 'minio';
import { type KubeApi, SECRET } from '../kube/kube-api.ts';

/** Where S3 is, and its keys; they stay in this process. */
export interface StorageKeys {
  readonly endpoint: URL;
  readonly accessKey: string;
  readonly secretKey: string;
  readonly region: string;
}

/**
 * Reads storage credentials from a Secret of the contract's form.
 *
 * @throws ShoalError `not_found` or `invalid_argument` saying what the Secret lacks.
 */
export async function storageKeys(
  api: KubeApi,
  namespace: string,
  credential: { readonly name: string | undefined; readonly field: string },
): Promise<StorageKeys> {
  const { name, field } = credential;
  if (!name)
    throw new ShoalError(
      'invalid_argument',
      `${field} is in S3: spec.credentialName must name a Secret`,
    );
  const secret = await api.get(SECRET, namespace, name);
  if (!secret)
    throw new ShoalError('not_found', `Secret "${name}" does not exist in namespace ${namespace}`);
  const annotations = secret.metadata.annotations ?? {};
  const endpoint = annotations['s3-endpoint'];
  if (!endpoint)
    throw new ShoalError('invalid_argument', `Secret "${name}" has no annotation s3-endpoint`);
  const data = isJsonObject(secret['data']) ? secret['data'] : {};
  const key = (of: string): string => {
    const value = data[of];
    if (typeof value !== 'string')
      throw new ShoalError('invalid_argument', `Secret "${name}" has no key ${of}`);
    return Buffer.from(value, 'base64').toString('utf8');
  };
  const scheme = annotations['s3-usehttps'] === '0' ? 'http' : 'https';
  return {
    endpoint: new URL(`${scheme}://${endpoint}`),
    accessKey: key('ACCESS_KEY_ID'),
    secretKey: key('SECRET_ACCESS_KEY'),
    region: annotations['s3-region'] ?? 'us-east-1',
  };
}

/** An address that opens one object for a while (AWS Signature Version 4 in the query). */
export async function signedAddress(
  keys: StorageKeys,
  object: {
    readonly bucket: string;
    readonly key: string;
    readonly at: Date;
    readonly seconds: number;
  },
): Promise<string> {
  const { endpoint, accessKey, secretKey, region } = keys;
  const client = new Client({
    endPoint: endpoint.hostname,
    useSSL: endpoint.protocol === 'https:',
    accessKey,
    secretKey,
    // Known, so that signing asks nobody.
    region,
    ...(endpoint.port ? { port: Number(endpoint.port) } : {}),
  });
  return await client.presignedUrl('GET', object.bucket, object.key, object.seconds, {}, object.at);
}
