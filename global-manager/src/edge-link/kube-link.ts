import {
  isRefusal,
  KUBERNETES_LINK,
  LINK_LABEL,
  type NodeObject,
  type NodeRecord,
  nodeNamespace,
  nodeObjectName,
  REFUSED_PART,
} from '@shoal/api';
import { digestOf, type Logger, messageOf } from '@shoal/core';
import { type KubeApi, type KubeObject, NODE_OBJECT, NODE_RECORD } from '../kube/kube-api.ts';
import { DONE, type ReconcileResult, type Reconciler } from '../reconcile/controller.ts';
import type { ObjectCache } from '../reconcile/object-cache.ts';
import type { CloudStore } from './cloud-store.ts';
import type { Feed, ScopeEntry } from './feed.ts';
import type { Records } from './records.ts';
import { isStream, recordFault } from './session.ts';

export interface KubeLinkPorts {
  readonly api: KubeApi;
  readonly store: CloudStore;
  readonly feed: Feed;
  readonly records: Records;
  readonly nodes: ObjectCache;
  readonly nodeObjects: ObjectCache;
  readonly nodeRecords: ObjectCache;
  readonly logger: Logger;
}

const LOG = 'log/';
/** A node whose namespace is missing is looked at again after this long. */
const RETRY_MS = 15_000;

function isLinked(node: KubeObject | undefined): boolean {
  return node?.metadata.labels?.[LINK_LABEL] === KUBERNETES_LINK;
}

/**
 * The cloud’s end of links that go through the Kubernetes API server: a node’s feed as NodeObjects in
 * the node’s namespace, its records taken out of NodeRecords there. Who may write into the namespace is
 * Kubernetes’ to say; which node it is, the namespace says, and nothing in a record.
 */
export class KubeLink implements Reconciler {
  readonly name = 'kube-link';
  readonly #ports: KubeLinkPorts;

  constructor(ports: KubeLinkPorts) {
    this.#ports = ports;
  }

  watch(enqueue: (key: string) => void): void {
    const { feed, nodes, nodeObjects, nodeRecords } = this.#ports;
    const ofNode = (node: string): void => {
      if (isLinked(nodes.get('', node))) enqueue(`${nodeNamespace(node)}/${node}`);
    };
    feed.onAppend(ofNode);
    nodes.onChange((node) => ofNode(node.metadata.name));
    for (const cache of [nodeObjects, nodeRecords])
      cache.onChange((object) => {
        const node = this.#nodeOf(object.metadata.namespace ?? '');
        if (node !== undefined) ofNode(node);
      });
  }

  #nodeOf(namespace: string): string | undefined {
    const found = this.#ports.nodes
      .list()
      .find((n) => isLinked(n) && nodeNamespace(n.metadata.name) === namespace);
    return found?.metadata.name;
  }

  async reconcile(namespace: string, node: string): Promise<ReconcileResult> {
    if (!isLinked(this.#ports.nodes.get('', node))) return DONE;
    const faults = await this.#tell(namespace, node);
    // What cannot be told does not keep the node from being heard.
    await this.#listen(namespace, node);
    const [fault] = faults;
    if (fault === undefined) return DONE;
    this.#ports.logger.warn('a node cannot be told everything', {
      node,
      namespace,
      faults: faults.length,
      reason: messageOf(fault),
    });
    return { kind: 'requeueAfter', ms: RETRY_MS };
  }

  /** Makes the NodeObjects say what the feed says. @returns What went wrong, object by object. */
  async #tell(namespace: string, node: string): Promise<unknown[]> {
    const { api, feed, nodeObjects } = this.#ports;
    const wanted = new Map(feed.scope(node).map((entry) => [nodeObjectName(entry), entry]));
    const faults: unknown[] = [];
    const attempt = async (step: () => Promise<void>): Promise<void> => {
      await step().catch((error: unknown) => faults.push(error));
    };
    for (const [name, entry] of wanted)
      await attempt(async () => await this.#tellOne({ namespace, name }, entry));
    for (const { metadata } of nodeObjects.list(namespace))
      if (!wanted.has(metadata.name) && !metadata.deletionTimestamp)
        await attempt(async () => await api.delete(NODE_OBJECT, namespace, metadata.name));
    return faults;
  }

  async #tellOne(at: { namespace: string; name: string }, entry: ScopeEntry): Promise<void> {
    const { api, feed, nodeObjects } = this.#ports;
    const known = nodeObjects.get(at.namespace, at.name);
    const { spec } = (known ?? {}) as Partial<NodeObject>;
    // Somebody may have changed what stands there: the node would refuse it.
    const isWhole = spec?.digest === entry.digest && digestOf(spec.body) === entry.digest;
    const isNamed =
      spec?.kind === entry.kind &&
      (spec.namespace ?? '') === entry.namespace &&
      spec.name === entry.name;
    if (isWhole && isNamed && spec.uid === entry.uid) return;
    const body = feed.body(entry.digest);
    // A body that is gone was replaced since: the newer change comes here too.
    if (!body) return;
    const { kind, namespace, name, uid, digest } = entry;
    const fresh = {
      spec: { kind, namespace, name, uid, digest, body: Buffer.from(body).toString('utf8') },
    };
    nodeObjects.observe(
      known
        ? await api.update(NODE_OBJECT, { ...known, ...fresh })
        : await api.create(NODE_OBJECT, { metadata: at, ...fresh }),
    );
  }

  /** Whether a node has refused a version of an object that this cache has not seen. */
  #isAhead(namespace: string, body: Buffer): boolean {
    const said: unknown = JSON.parse(body.toString('utf8'));
    if (!isRefusal(said)) return false;
    const seen = this.#ports.nodeObjects
      .list(namespace)
      .map((o) => Number(o.metadata.resourceVersion));
    return Number(said.version) > Math.max(0, ...seen);
  }

  /** What a node refused, if that is still what it is told. */
  #refusals(
    at: { readonly namespace: string; readonly node: string },
    key: string,
    body: Buffer,
  ): { rev: number; error: string }[] {
    const said: unknown = JSON.parse(body.toString('utf8'));
    if (!isRefusal(said)) return [];
    const { feed, nodeObjects } = this.#ports;
    const isNow = (entry: ScopeEntry): boolean =>
      key === `${entry.kind}/${entry.namespace}/${entry.name}/${REFUSED_PART}` &&
      entry.digest === said.digest &&
      nodeObjects.get(at.namespace, nodeObjectName(entry))?.metadata.resourceVersion ===
        said.version;
    return feed
      .scope(at.node)
      .filter(isNow)
      .map(({ rev }) => ({ rev, error: said.error }));
  }

  /** Takes what the node has said: each record once, logs in their order. */
  async #listen(namespace: string, node: string): Promise<void> {
    const { api, store, records, nodeRecords, logger } = this.#ports;
    const said = nodeRecords
      .list(namespace)
      .map((o) => o as unknown as NodeRecord)
      .toSorted((a, b) => a.spec.seq - b.spec.seq);
    const taken: { node: string; stream: string; key: string }[] = [];
    const refusals: { rev: number; error: string }[] = [];
    const done: NodeRecord[] = [];
    store.transaction(() => {
      for (const record of said) {
        const { edgeStore, stream, seq, key, first, idempotencyKey = '' } = record.spec;
        const body = Buffer.from(record.spec.body);
        const fault = isStream(stream) ? recordFault({ key, body }) : 'not a stream';
        if (fault !== undefined) logger.warn('record refused', { node, key, fault });
        const isValid = fault === undefined;
        if (!stream.startsWith(LOG)) {
          // Of a key there is one object, which holds what was said last; what was taken of it is not
          // taken again, also when the record has been forgotten since.
          const isRefused = key.endsWith(`/${REFUSED_PART}`);
          // Of an object that is not here yet: it brings the node here again when it is.
          if (isRefused && isValid && this.#isAhead(namespace, body)) continue;
          const version = Number(record.metadata.resourceVersion);
          const isNew = records.isNewer(node, `kubernetes/${record.metadata.name}`, version);
          if (!isValid || !isNew) continue;
          if (isRefused) refusals.push(...this.#refusals({ namespace, node }, key, body));
          else if (records.replace(node, key, body)) taken.push({ node, stream, key });
          continue;
        }
        const entry = { stream, seq, key, body, idempotencyKey, ...(first ? { first } : {}) };
        const result = records.take(node, edgeStore, entry, isValid);
        if (result === 'taken' && isValid) taken.push({ node, stream, key });
        if (result !== 'gap') done.push(record);
      }
    });
    if (refusals.length > 0) this.#ports.feed.refused(node, refusals);
    records.announce(taken);
    for (const { metadata } of done) await api.delete(NODE_RECORD, namespace, metadata.name);
  }
}
