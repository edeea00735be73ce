import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

/** Prometheus figures of the global manager. */
export class Metrics {
  readonly registry: Registry = new Registry();
  readonly #reconciles: Counter<'controller' | 'result'>;
  readonly #seconds: Histogram<'controller'>;
  readonly #sessions: Gauge;
  readonly #records: Counter;
  readonly #lag: Gauge<'node'>;

  constructor() {
    const registers = [this.registry];
    collectDefaultMetrics({ register: this.registry });
    this.#reconciles = new Counter({
      name: 'shoal_reconcile_total',
      help: 'Reconciles by controller and result.',
      labelNames: ['controller', 'result'],
      registers,
    });
    this.#seconds = new Histogram({
      name: 'shoal_reconcile_seconds',
      help: 'Duration of reconciles.',
      labelNames: ['controller'],
      registers,
      buckets: [0.001, 0.005, 0.02, 0.1, 0.5, 2, 10],
    });
    this.#sessions = new Gauge({
      name: 'shoal_edge_sessions',
      help: 'Edge nodes connected now.',
      registers,
    });
    this.#records = new Counter({
      name: 'shoal_edge_records_total',
      help: 'Records received from edges.',
      registers,
    });
    this.#lag = new Gauge({
      name: 'shoal_edge_feed_lag',
      help: 'Changes not yet acknowledged, by node.',
      labelNames: ['node'],
      registers,
    });
  }

  reconciled(controller: string, result: string, ms: number): void {
    this.#reconciles.inc({ controller, result });
    this.#seconds.observe({ controller }, ms / 1000);
  }

  sessions(count: number): void {
    this.#sessions.set(count);
  }

  record(): void {
    this.#records.inc();
  }

  lag(node: string, changes: number): void {
    this.#lag.set({ node }, changes);
  }
}
