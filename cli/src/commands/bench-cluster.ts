import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { clusterPlace, codeOfFolders, type PlaceRunner } from '@shoal/benchmark';
import { EmbeddedCluster } from '../embedded/embedded-cluster.ts';
import { layoutOf } from '../embedded/layout.ts';
import { runningState } from '../embedded/lock.ts';
import { ProgressView } from '../terminal/progress.ts';
import { localAccess } from './cluster-access.ts';
import { connectTo } from './context.ts';
import { Resources } from './resources.ts';

/** Packages a case on the cluster runs through beside those that every case does. */
const PACKAGES = ['api', 'cluster', 'global-manager', 'local-controller'] as const;

/** Hash of the cluster's own code: what another one made is not what this one makes. */
function codeOfCluster(): string {
  const require = createRequire(import.meta.url);
  const packages = PACKAGES.map((name) => dirname(require.resolve(`@shoal/${name}`)));
  return codeOfFolders([...packages, join(import.meta.dirname, '../embedded')]);
}

/** The folder's cluster, or one of its own that ends with the run. */
export async function openClusterPlace(
  folder: string,
  signal: AbortSignal,
): Promise<{
  readonly run: PlaceRunner;
  readonly code: string;
  readonly close: () => Promise<void>;
}> {
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
    code: codeOfCluster(),
    close: async () => {
      client.close();
      await own?.stop();
    },
  };
}
