import { appendCondition, type Model } from '@shoal/api';
import type { Clock } from '@shoal/core';
import type { KubeApi } from '../../kube/kube-api.ts';
import { DONE, type ReconcileResult, type Reconciler } from '../../reconcile/controller.ts';
import { keyOf, type ObjectCache } from '../../reconcile/object-cache.ts';
import { writeStatus } from '../status-writer.ts';

const SCHEMES = ['s3', 'http', 'https'];
const BLOB = /^blob:sha256:[0-9a-f]{64}$/;

/** Checks that a Model's URL is of a form the system can read. */
export class ModelReconciler implements Reconciler {
  readonly name = 'model';
  readonly #ports: { readonly api: KubeApi; readonly models: ObjectCache; readonly clock: Clock };

  constructor(ports: { api: KubeApi; models: ObjectCache; clock: Clock }) {
    this.#ports = ports;
  }

  watch(enqueue: (key: string) => void): void {
    this.#ports.models.onChange((o) => enqueue(keyOf(o)));
  }

  async reconcile(namespace: string, name: string): Promise<ReconcileResult> {
    const { api, models, clock } = this.#ports;
    const found = models.get(namespace, name);
    if (!found) return DONE;
    const model = found as unknown as Model;
    const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(model.spec.url)?.[1]?.toLowerCase();
    const known = scheme === undefined || SCHEMES.includes(scheme) || BLOB.test(model.spec.url);
    const condition = known
      ? {
          type: 'Ready',
          status: 'True' as const,
          reason: 'Accepted',
          message: 'the URL is of a supported form',
        }
      : {
          type: 'Ready',
          status: 'False' as const,
          reason: 'UnsupportedURL',
          message: `spec.url: "${model.spec.url}" is not supported; use a host path, s3://, http(s)://, or blob:sha256:… as shoal model push prints it`,
        };
    const conditions = appendCondition(model.status?.conditions, condition, clock.now());
    await writeStatus(api, models, model, {
      ...model.status,
      conditions,
      observedGeneration: model.metadata.generation,
    });
    return DONE;
  }
}
