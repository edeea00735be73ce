import { mkdirSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { type ClusterAccess, clusterPlace, type PlaceRunner } from '@shoal/benchmark';
import { EmbeddedCluster } from '../embedded/embedded-cluster.ts';
import { layoutOf } from '../embedded/layout.ts';
import { runningState } from '../embedded/lock.ts';
import { ProgressView } from '../terminal/progress.ts';
import { connectTo } from './context.ts';
import { Resources } from './resources.ts';

/** The folder's cluster, or one of its own that ends with the run. */
export async function openClusterPlace(
  folder: string,
  signal: AbortSignal,
): Promise<{ readonly run: PlaceRunner; readonly close: () => Promise<void> }> {
  const layout = layoutOf(folder);
  const running = runningState(layout);
  const view = new ProgressView();
  const own = running
    ? undefined
    : await EmbeddedCluster.start({
        layout,
        edges: 2,
        onStep: (text) => view.stage(text),
        signal,
      }).finally(() => view.finish());
  const state = running ?? own?.state;
  if (!state) throw new Error('no cluster');
  const client = connectTo(state);
  const resources = new Resources(client);
  const access: ClusterAccess = {
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
      (await resources.get(kind, 'default', name)) as Awaited<ReturnType<ClusterAccess['get']>>,
    remove: async (kind, name) => {
      await resources.remove(kind, 'default', name);
    },
  };
  return {
    run: clusterPlace(access),
    close: async () => {
      client.close();
      await own?.stop();
    },
  };
}
