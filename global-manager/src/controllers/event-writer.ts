import type { KubernetesObject } from '@shoal/api';
import { type Clock, digestOf, isShoalError, type Logger, messageOf, rfc3339 } from '@shoal/core';
import { EVENT, type KubeApi } from '../kube/kube-api.ts';

export interface EventPorts {
  readonly api: KubeApi;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface EventText {
  readonly type: 'Normal' | 'Warning';
  /** One word, in CamelCase. */
  readonly reason: string;
  readonly message: string;
}

const COMPONENT = 'shoal-global-manager';

/**
 * Writes an Event about an object, where `kubectl describe` shows it. The same text is written
 * once; a failure is logged and nothing more: an Event is never worth a reconcile.
 */
export async function recordEvent(
  ports: EventPorts,
  about: KubernetesObject,
  text: EventText,
): Promise<void> {
  const { name, namespace = 'default', uid = '' } = about.metadata;
  const now = rfc3339(ports.clock.now());
  const id = digestOf(`${uid}${text.reason}${text.message}`).slice(7, 23);
  try {
    await ports.api.create(EVENT, {
      metadata: { name: `${name}.${id}`, namespace },
      involvedObject: { apiVersion: about.apiVersion, kind: about.kind, name, namespace, uid },
      ...text,
      count: 1,
      firstTimestamp: now,
      lastTimestamp: now,
      source: { component: COMPONENT },
      reportingComponent: COMPONENT,
      reportingInstance: '',
    });
  } catch (error) {
    if (isShoalError(error) && error.code === 'already_exists') return;
    ports.logger.debug('event not written', { name, reason: messageOf(error) });
  }
}
