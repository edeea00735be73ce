import type { Feed } from '../edge-link/feed.ts';

import { DONE, type ReconcileResult, type Reconciler } from '../reconcile/controller.ts';
import { keyOf, type ObjectCache } from '../reconcile/object-cache.ts';
import { BLOBS_ANNOTATION, SERVICES_ANNOTATION } from '../worker-pod/build.ts';
import { hasEnded, nodeOf } from './job-nodes.ts';

const KIND = 'PodBlobs';

/** What a node is told of a pod’s needs. */
export interface PodNeeds {
  readonly digests: readonly string[];
  /** `svc://<namespace>/<service>:<port>` that the pod may reach through the link. */
  readonly services?: readonly string[];
}

/** Services that pods of a node may reach through the link. */
export function servicesOf(feed: Feed, node: string): string[] {
  return feed.bodies<PodNeeds>(node, KIND).flatMap((needs) => needs.services ?? []);
}

/** Lets a node read the blobs that its pods fetch, and reach the services they use, while they may need them. */
export class PodBlobsReconciler implements Reconciler {
  readonly name = 'pod-blobs';
  readonly #pods: ObjectCache;
  readonly #feed: Feed;

  constructor(ports: { readonly pods: ObjectCache; readonly feed: Feed }) {
    this.#pods = ports.pods;
    this.#feed = ports.feed;
  }

  watch(enqueue: (key: string) => void): void {
    this.#pods.onChange((pod) => {
      const { annotations = {} } = pod.metadata;
      if (annotations[BLOBS_ANNOTATION] || annotations[SERVICES_ANNOTATION]) enqueue(keyOf(pod));
    });
  }

  reconcile(namespace: string, name: string): Promise<ReconcileResult> {
    const pod = this.#pods.get(namespace, name);
    const key = { kind: KIND, namespace, name, uid: pod?.metadata.uid ?? '' };
    const node = pod && !hasEnded(pod) ? nodeOf(pod) : undefined;
    const listed = (annotation: string): string[] =>
      pod?.metadata.annotations?.[annotation]?.split(',') ?? [];
    // A pod may reach what is in its own namespace, whoever wrote the annotation.
    const services = listed(SERVICES_ANNOTATION).filter((s) => s.startsWith(`svc://${namespace}/`));
    const needs: PodNeeds = {
      digests: listed(BLOBS_ANNOTATION),
      ...(services.length > 0 && { services }),
    };
    this.#feed.assign(key, new Map(node === undefined ? [] : [[node, needs]]));
    return Promise.resolve(DONE);
  }
}
