import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { type ApiClient, renderKubeconfig } from '@shoal/cluster';
import { MANAGER_ACCOUNT, MANAGER_NAMESPACE, managerAccess } from '@shoal/global-manager';
import type { ClusterState } from './layout.ts';

/** The user the manager is to the API server. */
export const MANAGER_USER: { readonly name: string; readonly groups: readonly string[] } = {
  name: `system:serviceaccount:${MANAGER_NAMESPACE}:${MANAGER_ACCOUNT}`,
  groups: ['system:serviceaccounts', `system:serviceaccounts:${MANAGER_NAMESPACE}`],
};

const COLLECTIONS: Readonly<Record<string, string>> = {
  Namespace: '/api/v1/namespaces',
  ServiceAccount: `/api/v1/namespaces/${MANAGER_NAMESPACE}/serviceaccounts`,
  ClusterRole: '/apis/rbac.authorization.k8s.io/v1/clusterroles',
  ClusterRoleBinding: '/apis/rbac.authorization.k8s.io/v1/clusterrolebindings',
};

/** Gives the manager's account the rights of `deploy/rbac`, and no others. */
export async function grantManagerAccess(client: ApiClient): Promise<void> {
  for (const object of managerAccess()) {
    const { kind, metadata } = object;
    const path = `${COLLECTIONS[kind]}/${metadata.name}?fieldManager=shoal&force=true`;
    const contentType = 'application/apply-patch+yaml';
    await client.request('PATCH', path, object, { contentType });
  }
}

/** Writes the kubeconfig by which the manager reaches the API server. */
export function writeManagerKubeconfig(
  file: string,
  { server, authority }: Pick<ClusterState, 'server' | 'authority'>,
  token: string,
): void {
  mkdirSync(dirname(file), { recursive: true });
  const config = renderKubeconfig({ server, authority, user: MANAGER_ACCOUNT, token });
  writeFileSync(file, config, { mode: 0o600 });
}
