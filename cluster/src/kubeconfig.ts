import { stringify } from 'yaml';

export interface KubeconfigOptions {
  readonly server: string;
  /** PEM of the cluster's certificate authority. */
  readonly authority: string;
  readonly user: string;
  readonly token: string;
}

/** A kubeconfig that kubectl and every client library read. */
export function renderKubeconfig(options: KubeconfigOptions): string {
  return stringify({
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [
      {
        name: 'shoal',
        cluster: {
          server: options.server,
          'certificate-authority-data': Buffer.from(options.authority).toString('base64'),
        },
      },
    ],
    users: [{ name: options.user, user: { token: options.token } }],
    contexts: [
      { name: 'shoal', context: { cluster: 'shoal', user: options.user, namespace: 'default' } },
    ],
    'current-context': 'shoal',
  });
}
