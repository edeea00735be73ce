import { isJsonObject } from '@shoal/core';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

/** Figures of one job. */
export interface JobFigures {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly figures: Readonly<Record<string, number>>;
}

/** Numbers of a status, nested ones as `outer_inner`. */
export function figuresOf(status: unknown, prefix = ''): Record<string, number> {
  if (!isJsonObject(status)) return {};
  return Object.fromEntries(
    Object.entries(status).flatMap(([key, value]): [string, number][] => {
      if (typeof value === 'number') return [[`${prefix}${key}`, value]];
      return Object.entries(figuresOf(value, `${prefix}${key}_`));
    }),
  );
}

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

  /** Figures of jobs, read when they are asked for: what their status says, by name of the figure. */
  jobs(read: () => readonly JobFigures[]): void {
    new Gauge({
      name: 'shoal_job_figure',
      help: 'What the workers of a job say: inferences, hard and upload ratio, bytes saved, latency by source, agreement, hard examples by state.',
      labelNames: ['kind', 'namespace', 'name', 'figure'],
      registers: [this.registry],
      collect() {
        this.reset();
        for (const { kind, namespace, name, figures } of read())
          for (const [figure, value] of Object.entries(figures))
            this.set({ kind, namespace, name, figure }, value);
      },
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
