import { mkdirSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import type { ClusterAccess } from '@shoal/benchmark';
import type { ClusterObject } from '@shoal/examples';
import type { ClusterState, Layout } from '../embedded/layout.ts';
import type { Resources } from './resources.ts';

/** What examples and benchmark cases can do with the cluster they run on: objects, and files of nodes. */
export interface LocalAccess extends ClusterAccess {
  readonly get: (kind: string, name: string) => Promise<ClusterObject | undefined>;
}

export function localAccess(
  layout: Layout,
  state: ClusterState,
  resources: Resources,
): LocalAccess {
  return {
    cloudNode: state.cloudNode,
    edgeNodes: state.edgeNodes,
    nodePath: (node, path) => {
      const real = join(layout.rootfs(node), normalize(join('/', path)));
      mkdirSync(dirname(real), { recursive: true });
      return real;
    },
    apply: async (objects) => {
      for (const object of objects)
        await resources.apply(object as Record<string, unknown>, 'default');
    },
    get: async (kind, name) =>
      (await resources.get(kind, 'default', name)) as ClusterObject | undefined,
    logOf: async (pod) => await resources.log('default', pod).catch(() => ''),
    remove: async (kind, name) => {
      await resources.remove(kind, 'default', name);
    },
  };
}
