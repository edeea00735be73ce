import type { Feed } from '../edge-link/feed.ts';
import type { KubeObject } from '../kube/kube-api.ts';
import { DONE, type ReconcileResult, type Reconciler } from '../reconcile/controller.ts';
import { keyOf, type ObjectCache } from '../reconcile/object-cache.ts';
import { BLOBS_ANNOTATION } from '../worker-pod/build.ts';
import { phaseOf } from './pod-trouble.ts';

const KIND = 'PodBlobs';

/** Lets a node read the blobs that its pods fetch, while they may need them. */
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
      if (pod.metadata.annotations?.[BLOBS_ANNOTATION]) enqueue(keyOf(pod));
    });
  }

  reconcile(namespace: string, name: string): Promise<ReconcileResult> {
    const pod = this.#pods.get(namespace, name);
    const key = { kind: KIND, namespace, name, uid: pod?.metadata.uid ?? '' };
    const node = pod && !hasEnded(pod) ? nodeOf(pod) : undefined;
    const digests = pod?.metadata.annotations?.[BLOBS_ANNOTATION]?.split(',') ?? [];
    this.#feed.assign(key, new Map(node === undefined ? [] : [[node, { digests }]]));
    return Promise.resolve(DONE);
  }
}

function hasEnded(pod: KubeObject): boolean {
  return ['Succeeded', 'Failed'].includes(phaseOf(pod));
}

function nodeOf(pod: KubeObject): string | undefined {
  return (pod as unknown as { spec?: { nodeName?: string } }).spec?.nodeName;
}
