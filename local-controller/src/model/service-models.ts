import type { ServiceAssignment } from '@shoal/api';
import { isShoalError, type Logger, messageOf } from '@shoal/core';
import type { EdgeDatabase } from '../store/database.ts';
import type { ModelStore } from './model-store.ts';

export interface ServiceModelPorts {
  readonly db: EdgeDatabase;
  readonly models: Pick<ModelStore, 'fetch'>;
  readonly logger: Logger;
}

/** Fetches the models of services that this node is to run: they are here before their workers start. */
export class ServiceModels {
  readonly #ports: ServiceModelPorts;
  readonly #busy = new Set<string>();

  constructor(ports: ServiceModelPorts) {
    this.#ports = ports;
  }

  /** Looks at every service once. */
  poll(): void {
    for (const object of this.#ports.db.objects('JointInferenceService')) {
      const { model } = object.body as ServiceAssignment;
      const digest = /^blob:(sha256:[0-9a-f]{64})$/.exec(model.url)?.[1];
      if (digest !== undefined) void this.#fetch(digest, object.name);
    }
  }

  async #fetch(digest: string, service: string): Promise<void> {
    if (this.#busy.has(digest)) return;
    this.#busy.add(digest);
    try {
      await this.#ports.models.fetch(digest);
    } catch (error) {
      // Without the cloud there is nothing wrong: the worker asks again.
      if (!isShoalError(error) || error.code !== 'unavailable')
        this.#ports.logger.warn('model of a service not fetched', {
          service,
          reason: messageOf(error),
        });
    } finally {
      this.#busy.delete(digest);
    }
  }
}
