import {
  appendCondition,
  type Dataset,
  type DatasetAssignment,
  type DatasetReport,
  KUBERNETES_LINK,
  LINK_LABEL,
  recordKey,
} from '@shoal/api';
import {
  type Clock,
  isJsonObject,
  isShoalError,
  messageOf,
  rfc3339,
  ShoalError,
} from '@shoal/core';
import type { Feed } from '../../edge-link/feed.ts';
import type { Records } from '../../edge-link/records.ts';
import { type KubeApi, SECRET } from '../../kube/kube-api.ts';
import { DONE, type ReconcileResult, type Reconciler } from '../../reconcile/controller.ts';
import { keyOf, type ObjectCache } from '../../reconcile/object-cache.ts';
import { signedAddress, storageKeys } from '../../worker-pod/signed-address.ts';
import { writeStatus } from '../status-writer.ts';

export interface DatasetPorts {
  readonly api: KubeApi;
  readonly datasets: ObjectCache;
  readonly nodes: ObjectCache;
  readonly feed: Feed;
  readonly records: Records;
  readonly clock: Clock;
}

/** What a node is told of a dataset, beside what stands in its spec. */
type Extras = Pick<DatasetAssignment['spec'], 'fetchUrl' | 'source' | 'credentials'>;

/** What a node is told of a dataset. */
export function datasetAssignment(dataset: Dataset, extras: Extras = {}): DatasetAssignment {
  const { name, namespace = '', uid = '', generation = 1 } = dataset.metadata;
  const { url, format } = dataset.spec;
  return { metadata: { name, namespace, uid, generation }, spec: { url, format, ...extras } };
}

/** Keys of a Secret that a source may need; others stay where they are. */
const SECRET_KEYS = ['username', 'password', 'token', 'ca.crt', 'tls.crt', 'tls.key'];
const SOURCES = ['mqtt', 'http', 'directory', 'plugin'] as const;

/** @throws ShoalError `invalid_argument` for a source that no node could start. */
function requireSource({ spec }: Dataset): void {
  const { source } = spec;
  if (!source) return;
  const given = SOURCES.filter((kind) => source[kind] !== undefined);
  if (given.length !== 1)
    throw new ShoalError(
      'invalid_argument',
      `spec.source needs exactly one of ${SOURCES.join(', ')}; it has ${given.join(' and ') || 'none'}`,
    );
  if (!['txt', 'csv', 'jsonl'].includes(spec.format.toLowerCase()))
    throw new ShoalError(
      'invalid_argument',
      `spec.format: "${spec.format}" cannot grow line by line; a dataset with a source is txt, csv or jsonl`,
    );
  if (/^[a-z][a-z0-9+.-]*:/i.test(spec.url))
    throw new ShoalError(
      'invalid_argument',
      `spec.url: ${spec.url} is remote: nothing can be appended there; a dataset with a source has its file on a node`,
    );
}

/** A dataset that was refused is looked at again after this long. */
const REFUSED_RETRY_MS = 15_000;
/** Signed addresses are made anew this often; they are good for twice as long. */
const SIGNED_MS = 12 * 3600 * 1000;
/** Secrets are not watched: one that was rotated reaches the node after this long at most. */
const SECRET_MS = 60_000;

/** Sends a Dataset to the node that holds it, and brings back what the node counts. */
export class DatasetReconciler implements Reconciler {
  readonly name = 'dataset';
  readonly #ports: DatasetPorts;

  constructor(ports: DatasetPorts) {
    this.#ports = ports;
  }

  watch(enqueue: (key: string) => void): void {
    const { datasets, nodes, records } = this.#ports;
    datasets.onChange((o) => enqueue(keyOf(o)));
    nodes.onChange((node) => {
      for (const d of datasets.list()) {
        if ((d as unknown as Dataset).spec.nodeName === node.metadata.name) enqueue(keyOf(d));
      }
    });
    records.onRecord((_node, key) => {
      const [kind, namespace, name] = key.split('/');
      if (kind === 'Dataset') enqueue(`${namespace}/${name}`);
    });
  }

  async reconcile(namespace: string, name: string): Promise<ReconcileResult> {
    const { datasets, feed, records, api } = this.#ports;
    const found = datasets.get(namespace, name);
    const key = { kind: 'Dataset', namespace, name, uid: found?.metadata.uid ?? '' };
    if (!found) {
      feed.assign(key, new Map());
      records.forgetRecord(recordKey('Dataset', { namespace, name }));
      return DONE;
    }
    const dataset = found as unknown as Dataset;
    const { nodeName } = dataset.spec;
    try {
      const extras = await this.#extras(dataset);
      const assignment = datasetAssignment(dataset, extras);
      feed.assign(key, new Map(nodeName ? [[nodeName, assignment]] : []));
      await writeStatus(api, datasets, dataset, this.#status(dataset));
      if (extras.credentials) return { kind: 'requeueAfter', ms: SECRET_MS };
      return extras.fetchUrl === undefined ? DONE : { kind: 'requeueAfter', ms: SIGNED_MS / 4 };
    } catch (error) {
      if (isShoalError(error) && error.code === 'conflict') throw error;
      await writeStatus(api, datasets, dataset, this.#status(dataset, messageOf(error)));
      // What is missing may be of a kind that is not watched: a Secret.
      return { kind: 'requeueAfter', ms: REFUSED_RETRY_MS };
    }
  }

  async #extras(dataset: Dataset): Promise<Extras> {
    requireSource(dataset);
    const { source, url } = dataset.spec;
    const isRemote = /^[a-z][a-z0-9+.-]*:/i.test(url);
    const secret = source?.mqtt?.credentialName ?? source?.http?.credentialName;
    return {
      ...(isRemote ? { fetchUrl: await this.#fetchUrl(dataset) } : {}),
      ...(source ? { source } : {}),
      ...(secret ? { credentials: await this.#credentials(dataset, secret) } : {}),
    };
  }

  /** Keys of a Secret, for the node that connects with them. */
  async #credentials(dataset: Dataset, name: string): Promise<Record<string, string>> {
    const { namespace = '' } = dataset.metadata;
    const node = this.#ports.nodes.get('', dataset.spec.nodeName ?? '');
    if (node?.metadata.labels?.[LINK_LABEL] === KUBERNETES_LINK)
      throw new ShoalError(
        'invalid_argument',
        `spec.source: node ${node.metadata.name} is linked through the API server, which is no way for the keys of Secret "${name}"; use a source without credentials, or a node with a link of its own`,
      );
    const secret = await this.#ports.api.get(SECRET, namespace, name);
    if (!secret)
      throw new ShoalError(
        'not_found',
        `spec.source: Secret "${name}" does not exist in namespace ${namespace}`,
      );
    const data = isJsonObject(secret['data']) ? secret['data'] : {};
    return Object.fromEntries(
      Object.entries(data)
        .filter(([key]) => SECRET_KEYS.includes(key))
        .map(([key, value]) => [key, Buffer.from(String(value), 'base64').toString('utf8')]),
    );
  }

  /** Where the node fetches a remote dataset: no key ever leaves the cloud. */
  async #fetchUrl(dataset: Dataset): Promise<string> {
    const { url, credentialName } = dataset.spec;
    const { protocol, hostname, pathname } = new URL(url);
    if (protocol === 'http:' || protocol === 'https:') return url;
    if (protocol !== 's3:')
      throw new ShoalError(
        'invalid_argument',
        `spec.url: "${url}" is not supported; use a host path, s3:// or http(s)://`,
      );
    const { api, clock } = this.#ports;
    const { namespace = '' } = dataset.metadata;
    const keys = await storageKeys(api, namespace, { name: credentialName, field: 'spec.url' });
    return await signedAddress(keys, {
      bucket: hostname,
      key: decodeURIComponent(pathname.slice(1)),
      // The same for all of a period: a new address is a new assignment.
      at: new Date(Math.floor(clock.now() / SIGNED_MS) * SIGNED_MS),
      seconds: (2 * SIGNED_MS) / 1000,
    });
  }

  #report(dataset: Dataset): DatasetReport | undefined {
    const { nodeName } = dataset.spec;
    const report = nodeName
      ? this.#ports.records.record<DatasetReport>(nodeName, recordKey('Dataset', dataset.metadata))
      : undefined;
    return report?.uid === dataset.metadata.uid ? report : undefined;
  }

  #verdict(
    dataset: Dataset,
    report: DatasetReport | undefined,
    fault: string | undefined,
  ): { ok: 'True' | 'False' | 'Unknown'; reason: string; message: string } {
    const { nodeName } = dataset.spec;
    if (fault !== undefined) return { ok: 'False', reason: 'Refused', message: fault };
    if (!nodeName)
      return {
        ok: 'Unknown',
        reason: 'NotMonitored',
        message: 'spec.nodeName is empty: no node watches this dataset',
      };
    if (!this.#ports.nodes.get('', nodeName)) {
      return {
        ok: 'False',
        reason: 'NodeNotFound',
        message: `spec.nodeName: node "${nodeName}" does not exist`,
      };
    }
    if (report?.fault) return { ok: 'False', reason: 'Unreadable', message: report.fault };
    if (!report)
      return {
        ok: 'Unknown',
        reason: 'Counting',
        message: `waiting for node ${nodeName} to count samples`,
      };
    return { ok: 'True', reason: 'Monitored', message: `watched on node ${nodeName}` };
  }

  #status(dataset: Dataset, fault?: string): object {
    const now = this.#ports.clock.now();
    const report = this.#report(dataset);
    const { ok, reason, message } = this.#verdict(dataset, report, fault);
    const count = report?.numberOfSamples ?? dataset.status?.numberOfSamples ?? 0;
    const changed = count !== dataset.status?.numberOfSamples;
    return {
      ...dataset.status,
      numberOfSamples: count,
      ...(changed ? { updateTime: rfc3339(now) } : {}),
      source: dataset.spec.source && report?.source,
      observedGeneration: dataset.metadata.generation,
      conditions: appendCondition(
        dataset.status?.conditions,
        { type: 'Ready', status: ok, reason, message },
        now,
      ),
    };
  }
}
