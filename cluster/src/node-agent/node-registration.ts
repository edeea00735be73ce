import { readFileSync } from 'node:fs';
import { arch, availableParallelism, hostname, type as osType, release, totalmem } from 'node:os';
import { isShoalError, rfc3339 } from '@shoal/core';
import type { ApiClient } from '../client/api-client.ts';

export interface NodeIdentity {
  readonly name: string;
  readonly ip: string;
  readonly agentPort: number;
  readonly labels: Readonly<Record<string, string>>;
}

const LEASE_SECONDS = 40;

function osImage(): string {
  try {
    return /PRETTY_NAME="([^"]+)"/.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? osType();
  } catch {
    return osType();
  }
}

function condition(type: string, holds: boolean, reason: string): object {
  const now = rfc3339(Date.now());
  return {
    type,
    status: holds ? 'True' : 'False',
    reason,
    message: reason,
    lastHeartbeatTime: now,
    lastTransitionTime: now,
  };
}

function nodeStatus(identity: NodeIdentity): object {
  const amounts = {
    cpu: String(availableParallelism()),
    memory: `${Math.floor(totalmem() / 1024)}Ki`,
    pods: '110',
  };
  return {
    capacity: amounts,
    allocatable: amounts,
    addresses: [
      { type: 'InternalIP', address: identity.ip },
      { type: 'Hostname', address: identity.name },
    ],
    daemonEndpoints: { kubeletEndpoint: { Port: identity.agentPort } },
    nodeInfo: {
      architecture: arch() === 'x64' ? 'amd64' : arch(),
      operatingSystem: osType().toLowerCase(),
      osImage: osImage(),
      kernelVersion: release(),
      kubeletVersion: 'v1.32.4-shoal',
      kubeProxyVersion: '',
      containerRuntimeVersion: 'process://node',
      bootID: '',
      machineID: hostname(),
      systemUUID: '',
    },
    conditions: [
      condition('MemoryPressure', false, 'NodeHasSufficientMemory'),
      condition('DiskPressure', false, 'NodeHasNoDiskPressure'),
      condition('Ready', true, 'NodeAgentReady'),
    ],
  };
}

async function ignoring(code: string, promise: Promise<unknown>): Promise<void> {
  await promise.catch((error: unknown) => {
    if (!isShoalError(error) || error.code !== code) throw error;
  });
}

/** Makes the Node object, or brings it up to date. */
export async function registerNode(client: ApiClient, identity: NodeIdentity): Promise<void> {
  const labels = {
    'kubernetes.io/hostname': identity.name,
    'kubernetes.io/os': 'linux',
    ...identity.labels,
  };
  const body = { apiVersion: 'v1', kind: 'Node', metadata: { name: identity.name, labels } };
  await ignoring('already_exists', client.request('POST', '/api/v1/nodes', body));
  const patch = { contentType: 'application/merge-patch+json' };
  await client.request('PATCH', `/api/v1/nodes/${identity.name}`, { metadata: { labels } }, patch);
  await client.request(
    'PATCH',
    `/api/v1/nodes/${identity.name}/status`,
    { status: nodeStatus(identity) },
    patch,
  );
}

/** Now, as Kubernetes' MicroTime: six digits after the second. */
function microTime(): string {
  return new Date().toISOString().replace('Z', '000Z');
}

/** Says that this node is alive. */
export async function renewLease(client: ApiClient, name: string): Promise<void> {
  const path = '/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases';
  const spec = {
    holderIdentity: name,
    leaseDurationSeconds: LEASE_SECONDS,
    renewTime: microTime(),
  };
  try {
    await client.request(
      'PATCH',
      `${path}/${name}`,
      { spec },
      { contentType: 'application/merge-patch+json' },
    );
  } catch (error) {
    if (!isShoalError(error) || error.code !== 'not_found') throw error;
    await ignoring('already_exists', client.request('POST', path, { metadata: { name }, spec }));
  }
}
