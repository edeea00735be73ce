import type { Clock, Logger } from '@shoal/core';
import type { Feed } from '../../edge-link/feed.ts';
import type { Records } from '../../edge-link/records.ts';
import type { KubeApi } from '../../kube/kube-api.ts';
import type { ObjectCache } from '../../reconcile/object-cache.ts';

export interface StageJobPorts {
  readonly api: KubeApi;
  readonly jobs: ObjectCache;
  readonly models: ObjectCache;
  readonly datasets: ObjectCache;
  readonly pods: ObjectCache;
  readonly nodes: ObjectCache;
  readonly feed: Feed;
  readonly records: Records;
  readonly presence: EdgePresence;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Which edges are connected. */
export interface EdgePresence {
  /** How long a node has been connected, in milliseconds; undefined when it is not. */
  connectedForMs(node: string): number | undefined;
}
