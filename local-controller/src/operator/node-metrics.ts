import type { Registry } from 'prom-client';
import type { Link } from '../link/link.ts';
import type { EdgeDatabase } from '../store/database.ts';

/** Prometheus figures of this node; the library is loaded when somebody asks for the first time. */
export class NodeMetrics {
  readonly #link: Pick<Link, 'connected'>;
  readonly #db: EdgeDatabase;
  #registry: Promise<Registry> | undefined;

  constructor(link: Pick<Link, 'connected'>, db: EdgeDatabase) {
    this.#link = link;
    this.#db = db;
  }

  async #open(): Promise<Registry> {
    const { collectDefaultMetrics, Gauge, Registry: Figures } = await import('prom-client');
    const [link, db] = [this.#link, this.#db];
    const register = new Figures();
    const registers = [register];
    collectDefaultMetrics({ register });
    new Gauge({
      name: 'shoal_link_connected',
      help: '1 while connected to the global manager.',
      registers,
      collect() {
        this.set(link.connected ? 1 : 0);
      },
    });
    new Gauge({
      name: 'shoal_outbox_records',
      help: 'Records that wait to be sent.',
      registers,
      collect() {
        this.set(db.outbox.summary().records);
      },
    });
    return register;
  }

  /** All figures in Prometheus’ text format. */
  async text(): Promise<{ readonly type: string; readonly body: string }> {
    this.#registry ??= this.#open();
    const registry = await this.#registry;
    return { type: registry.contentType, body: await registry.metrics() };
  }
}
