import { digestOf, rfc3339 } from '@shoal/core';
import { type ApiObject, digNumber } from '../object.ts';
import type { ControllerContext, Kinds } from './control-loop.ts';
import { ignoreNotFound } from './control-loop.ts';

export interface EventText {
  readonly type: 'Normal' | 'Warning';
  readonly reason: string;
  readonly message: string;
}

/** Writes Events; the same text about the same object counts up instead of piling up. */
export class EventWriter {
  readonly #kinds: Kinds;
  readonly #context: ControllerContext;
  readonly #source: string;

  constructor(kinds: Kinds, context: ControllerContext, source: string) {
    this.#kinds = kinds;
    this.#context = context;
    this.#source = source;
  }

  async record(about: ApiObject, text: EventText): Promise<void> {
    const { namespace = 'default', name, uid = '' } = about.metadata;
    const id = digestOf(`${uid}${text.type}${text.reason}${text.message}`).slice(7, 23);
    const eventName = `${name}.${id}`;
    const now = rfc3339(this.#context.clock.now());
    const existing = this.#kinds.find('events', namespace, eventName);
    if (existing) {
      const target = this.#kinds.target('events', namespace, eventName);
      const bump = (o: ApiObject): unknown => ({
        ...o,
        count: (digNumber(o, 'count') ?? 1) + 1,
        lastTimestamp: now,
      });
      await ignoreNotFound(this.#context.verbs.modify(target, bump));
      return;
    }
    await ignoreNotFound(
      this.#kinds.create('events', namespace, {
        metadata: { name: eventName },
        involvedObject: {
          apiVersion: about.apiVersion,
          kind: about.kind,
          name,
          namespace: about.metadata.namespace ?? '',
          uid,
          resourceVersion: about.metadata.resourceVersion,
        },
        ...text,
        count: 1,
        firstTimestamp: now,
        lastTimestamp: now,
        source: { component: this.#source },
        reportingComponent: this.#source,
        reportingInstance: '',
      }),
    );
  }
}
