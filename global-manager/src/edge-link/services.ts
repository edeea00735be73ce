import { ShoalError } from '@shoal/core';
import { servicesOf } from '../controllers/pod-blobs.ts';
import { type KubeApi, SERVICE } from '../kube/kube-api.ts';
import type { Feed } from './feed.ts';
import type { ServiceDirectory } from './relay-hub.ts';

/** Services by what the cluster says of them, for nodes with a pod that uses them. */
export function clusterServices(ports: {
  readonly api: KubeApi;
  readonly feed: Feed;
}): ServiceDirectory {
  return {
    resolve: async (node, target) => {
      const match = /^svc:\/\/([a-z0-9-]+)\/([a-z0-9-]+):(\d{1,5})$/.exec(target);
      const [, namespace = '', name = '', port = ''] = match ?? [];
      if (!match || !servicesOf(ports.feed, node).includes(target))
        throw new ShoalError(
          'permission_denied',
          `node ${node} may not reach ${target.slice(0, 200)}: no job on it uses that service`,
        );
      const service = await ports.api.get(SERVICE, namespace, name);
      const spec = service?.['spec'] as
        | { clusterIP?: string; ports?: { port?: number }[] }
        | undefined;
      const host = spec?.clusterIP;
      if (!host || host === 'None' || !spec?.ports?.some((p) => p.port === Number(port)))
        throw new ShoalError('not_found', `there is no service ${namespace}/${name}:${port}`);
      return { host, port: Number(port) };
    },
  };
}
