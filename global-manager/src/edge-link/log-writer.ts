import { isJsonObject, messageOf } from '@shoal/core';
import { type EventPorts, recordEvent } from '../controllers/event-writer.ts';
import type { FigureHistory } from './figure-history.ts';
import type { LogEntry, Records } from './records.ts';

const BATCH = 50;
const MAX_TEXT = 1_000;

const FIGURES = 'log/figures';

type LogPorts = EventPorts & { readonly records: Records; readonly figures: FigureHistory };

/** Makes Events of what edges say that happened, and keeps what they counted: each once, in order. */
export class LogWriter {
  readonly #ports: LogPorts;
  #isBusy = false;

  constructor(ports: LogPorts) {
    this.#ports = ports;
    ports.records.onLog(() => void this.drain());
  }

  /** Writes what waits. An entry that cannot be written is logged: it must not hold up the others. */
  async drain(): Promise<void> {
    if (this.#isBusy) return;
    this.#isBusy = true;
    const { records, logger } = this.#ports;
    try {
      for (;;) {
        const entries = records.logEntries(BATCH);
        if (entries.length === 0) return;
        for (const entry of entries) {
          await this.#effect(entry);
        }
      }
    } catch (error) {
      logger.warn('what edges said happened could not be written', { reason: messageOf(error) });
    } finally {
      this.#isBusy = false;
    }
  }

  async #effect(entry: LogEntry): Promise<void> {
    const { records, figures } = this.#ports;
    if (entry.stream === FIGURES)
      return records.logDone(entry, () => figures.add(entry.node, entry.body));
    await this.#write(entry);
    records.logDone(entry);
  }

  async #write({ node, key, body, idempotencyKey }: LogEntry): Promise<void> {
    const [kind = '', namespace = '', name = ''] = key.split('/');
    const said: unknown = JSON.parse(Buffer.from(body).toString('utf8'));
    const text = (field: string, otherwise: string): string => {
      const value = isJsonObject(said) ? said[field] : undefined;
      return typeof value === 'string' && value !== '' ? value.slice(0, MAX_TEXT) : otherwise;
    };
    const work = { kind, namespace, name };
    // What a node says of what is not its business stands with the node.
    const about = this.#ports.records.worksFor(node, work)
      ? {
          apiVersion: 'sedna.io/v1alpha1',
          kind,
          metadata: { name, namespace, uid: text('uid', idempotencyKey) },
        }
      : { apiVersion: 'v1', kind: 'Node', metadata: { name: node, uid: node } };
    const isWarning = text('type', 'Normal') === 'Warning';
    await recordEvent(this.#ports, about, {
      type: isWarning ? 'Warning' : 'Normal',
      reason: text('reason', 'EdgeEvent').replaceAll(/[^A-Za-z]/g, ''),
      message: `node ${node}: ${text('message', 'something happened')}`,
    });
  }
}
