import { clusterPlace, type PlaceRunner } from '@shoal/benchmark';
import { EmbeddedCluster } from '../embedded/embedded-cluster.ts';
import { layoutOf } from '../embedded/layout.ts';
import { runningState } from '../embedded/lock.ts';
import { ProgressView } from '../terminal/progress.ts';
import { localAccess } from './cluster-access.ts';
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
  return {
    run: clusterPlace(localAccess(layout, state, new Resources(client))),
    close: async () => {
      client.close();
      await own?.stop();
    },
  };
}
