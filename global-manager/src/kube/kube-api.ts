import type { KubernetesObject } from '@shoal/api';

/** A kind as the API server addresses it. */
export interface KindRef {
  readonly apiVersion: string;
  readonly kind: string;
  readonly plural: string;
  readonly namespaced: boolean;
}

export type KubeObject = KubernetesObject & { readonly [field: string]: unknown };

/** An object that is about to be created; apiVersion and kind come from the KindRef. */
export interface NewObject {
  readonly metadata: { readonly namespace?: string; readonly [field: string]: unknown };
  readonly [field: string]: unknown;
}

export interface KubeEvent {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK';
  readonly object: KubeObject;
}

/** What the global manager needs of a Kubernetes API server, and nothing else. */
export interface KubeApi {
  list(kind: KindRef): Promise<{ readonly items: KubeObject[]; readonly resourceVersion: string }>;
  /**
   * Delivers changes after a version until the server ends the watch or the signal aborts.
   *
   * @throws ShoalError `out_of_range` when the version is too old: list again.
   */
  watch(
    kind: KindRef,
    from: string,
    options: { onEvent: (event: KubeEvent) => void; signal: AbortSignal },
  ): Promise<void>;
  /** The object, or undefined when there is none. */
  get(kind: KindRef, namespace: string, name: string): Promise<KubeObject | undefined>;
  /** @throws ShoalError `already_exists`, or `invalid_argument` with the server's words. */
  create(kind: KindRef, object: NewObject): Promise<KubeObject>;
  /** Replaces an object or its status at the version it carries. @throws ShoalError `conflict`. */
  update(kind: KindRef, object: KubeObject, subresource?: 'status'): Promise<KubeObject>;
  /** Deletes an object; absence is no error. */
  delete(kind: KindRef, namespace: string, name: string): Promise<void>;
}

const kind = (apiVersion: string, name: string, plural: string, namespaced = true): KindRef => ({
  apiVersion,
  kind: name,
  plural,
  namespaced,
});

/** The kinds the global manager works with. */
export const POD: KindRef = kind('v1', 'Pod', 'pods');
export const NODE: KindRef = kind('v1', 'Node', 'nodes', false);
export const SERVICE: KindRef = kind('v1', 'Service', 'services');
export const SECRET: KindRef = kind('v1', 'Secret', 'secrets');
export const EVENT: KindRef = kind('v1', 'Event', 'events');
export const DEPLOYMENT: KindRef = kind('apps/v1', 'Deployment', 'deployments');
export const HPA: KindRef = kind(
  'autoscaling/v2',
  'HorizontalPodAutoscaler',
  'horizontalpodautoscalers',
);
export const LEASE: KindRef = kind('coordination.k8s.io/v1', 'Lease', 'leases');
export const DATASET: KindRef = kind('sedna.io/v1alpha1', 'Dataset', 'datasets');
export const MODEL: KindRef = kind('sedna.io/v1alpha1', 'Model', 'models');
export const JOINT_INFERENCE: KindRef = kind(
  'sedna.io/v1alpha1',
  'JointInferenceService',
  'jointinferenceservices',
);
export const FEDERATED_LEARNING: KindRef = kind(
  'sedna.io/v1alpha1',
  'FederatedLearningJob',
  'federatedlearningjobs',
);
export const INCREMENTAL_LEARNING: KindRef = kind(
  'sedna.io/v1alpha1',
  'IncrementalLearningJob',
  'incrementallearningjobs',
);
export const LIFELONG_LEARNING: KindRef = kind(
  'sedna.io/v1alpha1',
  'LifelongLearningJob',
  'lifelonglearningjobs',
);
export const NODE_OBJECT: KindRef = kind('sedna.io/v1alpha1', 'NodeObject', 'nodeobjects');
export const NODE_RECORD: KindRef = kind('sedna.io/v1alpha1', 'NodeRecord', 'noderecords');
