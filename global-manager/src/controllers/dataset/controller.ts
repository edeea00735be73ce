import {
  appendCondition,
  type Dataset,
  type DatasetAssignment,
  type DatasetReport,
  recordKey,
} from '@shoal/api';
import { type Clock, rfc3339 } from '@shoal/core';
import type { Feed } from '../../edge-link/feed.ts';
import type { KubeApi } from '../../kube/kube-api.ts';
import { DONE, type ReconcileResult, type Reconciler } from '../../reconcile/controller.ts';
import { keyOf, type ObjectCache } from '../../reconcile/object-cache.ts';
import { writeStatus } from '../status-writer.ts';

export interface DatasetPorts {
  readonly api: KubeApi;
  readonly datasets: ObjectCache;
  readonly nodes: ObjectCache;
  readonly feed: Feed;
  readonly clock: Clock;
}

/** What a node is told of a dataset. */
export function datasetAssignment(dataset: Dataset): DatasetAssignment {
  const { name, namespace = '', uid = '', generation = 1 } = dataset.metadata;
  return {
    metadata: { name, namespace, uid, generation },
    spec: { url: dataset.spec.url, format: dataset.spec.format },
  };
}

/** Sends a Dataset to the node that holds it, and brings back what the node counts. */
export class DatasetReconciler implements Reconciler {
  readonly name = 'dataset';
  readonly #ports: DatasetPorts;

  constructor(ports: DatasetPorts) {
    this.#ports = ports;
  }

  watch(enqueue: (key: string) => void): void {
    const { datasets, nodes, feed } = this.#ports;
    datasets.onChange((o) => enqueue(keyOf(o)));
    nodes.onChange((node) => {
      for (const d of datasets.list()) {
        if ((d as unknown as Dataset).spec.nodeName === node.metadata.name) enqueue(keyOf(d));
      }
    });
    feed.onRecord((_node, key) => {
      const [kind, namespace, name] = key.split('/');
      if (kind === 'Dataset') enqueue(`${namespace}/${name}`);
    });
  }

  async reconcile(namespace: string, name: string): Promise<ReconcileResult> {
    const { datasets, feed, api } = this.#ports;
    const found = datasets.get(namespace, name);
    const key = { kind: 'Dataset', namespace, name, uid: found?.metadata.uid ?? '' };
    if (!found) {
      feed.assign(key, new Map());
      feed.forgetRecord(recordKey('Dataset', { namespace, name }));
      return DONE;
    }
    const dataset = found as unknown as Dataset;
    const { nodeName } = dataset.spec;
    feed.assign(key, new Map(nodeName ? [[nodeName, datasetAssignment(dataset)]] : []));
    await writeStatus(api, datasets, dataset, this.#status(dataset));
    return DONE;
  }

  #report(dataset: Dataset): DatasetReport | undefined {
    const { nodeName } = dataset.spec;
    const report = nodeName
      ? this.#ports.feed.record<DatasetReport>(nodeName, recordKey('Dataset', dataset.metadata))
      : undefined;
    return report?.uid === dataset.metadata.uid ? report : undefined;
  }

  #verdict(
    dataset: Dataset,
    report: DatasetReport | undefined,
  ): { ok: 'True' | 'False' | 'Unknown'; reason: string; message: string } {
    const { nodeName } = dataset.spec;
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

  #status(dataset: Dataset): object {
    const now = this.#ports.clock.now();
    const report = this.#report(dataset);
    const { ok, reason, message } = this.#verdict(dataset, report);
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
