import { ApiClient } from '@shoal/cluster';
import { type ClusterState, type Layout, layoutOf } from '../embedded/layout.ts';
import { requireRunning } from '../embedded/lock.ts';
import { Resources } from './resources.ts';

/** Options every command takes. */
export interface GlobalOptions {
  /** Folder whose cluster is meant. */
  readonly folder: string;
  readonly namespace: string;
}

export interface Session {
  readonly layout: Layout;
  readonly state: ClusterState;
  readonly client: ApiClient;
  readonly resources: Resources;
}

/** Connects to a running cluster. */
export function connectTo(state: ClusterState): ApiClient {
  return new ApiClient({ server: state.server, authority: state.authority, token: state.token });
}

/** Runs a body against the folder's running cluster. @throws ShoalError when none runs. */
export async function withCluster<T>(
  options: Pick<GlobalOptions, 'folder'>,
  body: (session: Session) => Promise<T>,
): Promise<T> {
  const layout = layoutOf(options.folder);
  const state = requireRunning(layout);
  const client = connectTo(state);
  try {
    return await body({ layout, state, client, resources: new Resources(client) });
  } finally {
    client.close();
  }
}
