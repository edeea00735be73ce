import { isJsonObject } from '@shoal/core';
import { type ApiObject, digString } from '../object.ts';
import { StatusError } from './status-error.ts';

/** Which third octets of 127.96.0.0/16 this cluster's services use: loopback, nothing to set up on Linux. */
export interface ServiceSubnets {
  readonly first: number;
  readonly count: number;
}

export const ALL_SUBNETS: ServiceSubnets = { first: 0, count: 256 };

/** The first and the last address of each subnet stay free. */
const PER_SUBNET = 254;

function addressAt(index: number, subnets: ServiceSubnets): string {
  return `127.96.${subnets.first + Math.floor(index / PER_SUBNET)}.${(index % PER_SUBNET) + 1}`;
}

function hashOf(text: string): number {
  let h = 0;
  for (const c of text) h = (Math.imul(h, 31) + c.charCodeAt(0)) >>> 0;
  return h;
}

/**
 * Gives a Service its ClusterIP: the one it asks for, or a free one found from a hash of its name
 * (so the same service tends to get the same address again).
 */
export function allocateAddress(
  service: ApiObject,
  others: readonly ApiObject[],
  subnets: ServiceSubnets,
): void {
  const { spec } = service;
  if (!isJsonObject(spec) || spec['clusterIP'] === 'None') return;
  const used = new Set(others.map((s) => digString(s, 'spec', 'clusterIP')));
  const asked = spec['clusterIP'];
  if (typeof asked === 'string' && asked !== '') {
    if (used.has(asked))
      throw new StatusError(
        'Invalid',
        `spec.clusterIP: ${asked}: provided IP is already allocated`,
      );
    return;
  }
  const pool = subnets.count * PER_SUBNET;
  const start = hashOf(`${service.metadata.namespace}/${service.metadata.name}`);
  for (let i = 0; i < pool; i++) {
    const address = addressAt((start + i) % pool, subnets);
    if (used.has(address)) continue;
    spec['clusterIP'] = address;
    spec['clusterIPs'] = [address];
    return;
  }
  throw new StatusError('InternalError', 'no free service address');
}

/** An update that says nothing of the address keeps it; one that names another is refused. */
export function keepAddress(next: ApiObject, current: ApiObject): void {
  const address = digString(current, 'spec', 'clusterIP');
  if (!isJsonObject(next.spec) || address === undefined) return;
  const asked = next.spec['clusterIP'];
  if (asked !== undefined && asked !== '' && asked !== address) {
    throw new StatusError('Invalid', 'spec.clusterIP: Invalid value: field is immutable');
  }
  next.spec['clusterIP'] = address;
  const all = current.spec?.['clusterIPs'];
  if (all !== undefined) next.spec['clusterIPs'] = all;
}
