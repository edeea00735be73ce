import { isJsonObject } from '@shoal/core';
import { type ApiObject, digString } from '../object.ts';
import { StatusError } from './status-error.ts';

/** Services live in 127.96.0.0/16: loopback addresses that need no setting up on Linux. */
const POOL = 65_533;

function addressAt(index: number): string {
  const n = index + 1;
  return `127.96.${n >> 8}.${n & 255}`;
}

function startOf(text: string): number {
  let h = 0;
  for (const c of text) h = (Math.imul(h, 31) + c.charCodeAt(0)) >>> 0;
  return h % POOL;
}

/**
 * Gives a Service its ClusterIP: the one it asks for, or a free one found from a hash of its name
 * (so the same service tends to get the same address again).
 */
export function allocateAddress(service: ApiObject, others: readonly ApiObject[]): void {
  const { spec } = service;
  if (!isJsonObject(spec) || spec['clusterIP'] === 'None') return;
  const used = new Set(others.map((s) => digString(s, 'spec', 'clusterIP')));
  const asked = spec['clusterIP'];
  if (typeof asked === 'string' && asked !== '') {
    if (used.has(asked)) throw new StatusError('Invalid', `spec.clusterIP: ${asked}: provided IP is already allocated`);
    return;
  }
  const start = startOf(`${service.metadata.namespace}/${service.metadata.name}`);
  for (let i = 0; i < POOL; i++) {
    const address = addressAt((start + i) % POOL);
    if (used.has(address)) continue;
    spec['clusterIP'] = address;
    spec['clusterIPs'] = [address];
    return;
  }
  throw new StatusError('InternalError', 'no free service address');
}
