import {
  appendCondition,
  type Dataset,
  type DatasetAssignment,
  type DatasetReport,
  recordKey,
} from '@shoal/api';
import { type Clock, isShoalError, messageOf, rfc3339, ShoalError } from '@shoal/core';
import type { Feed } from '../../edge-link/feed.ts';
import type { Records } from '../../edge-link/records.ts';
import type { KubeApi } from '../../kube/kube-api.ts';
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

/** What a node is told of a dataset. */
export function datasetAssignment(dataset: Dataset, fetchUrl?: string): DatasetAssignment {
  const { name, namespace = '', uid = '', generation = 1 } = dataset.metadata;
  const { url, format } = dataset.spec;
  return {
    metadata: { name, namespace, uid, generation },
    spec: { url, format, ...(fetchUrl === undefined ? {} : { fetchUrl }) },
  };
}

/** A dataset that was refused is looked at again after this long. */
const REFUSED_RETRY_MS = 15_000;
/** Signed addresses are made anew this often; they are good for twice as long. */
const SIGNED_MS = 12 * 3600 * 1000;

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
    const isRemote = /^[a-z][a-z0-9+.-]*:/i.test(dataset.spec.url);
    try {
      const fetchUrl = isRemote ? await this.#fetchUrl(dataset) : undefined;
      const assignment = datasetAssignment(dataset, fetchUrl);
      feed.assign(key, new Map(nodeName ? [[nodeName, assignment]] : []));
      await writeStatus(api, datasets, dataset, this.#status(dataset));
    } catch (error) {
      if (isShoalError(error) && error.code === 'conflict') throw error;
      await writeStatus(api, datasets, dataset, this.#status(dataset, messageOf(error)));
      // What is missing may be of a kind that is not watched: a Secret.
      return { kind: 'requeueAfter', ms: REFUSED_RETRY_MS };
    }
    return isRemote ? { kind: 'requeueAfter', ms: SIGNED_MS / 4 } : DONE;
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
      observedGeneration: dataset.metadata.generation,
      conditions: appendCondition(
        dataset.status?.conditions,
        { type: 'Ready', status: ok, reason, message },
        now,
      ),
    };
  }
}
