import { isJsonObject } from '@shoal/core';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { LinkStatus } from '../edge-link/hub.ts';

/** Figures of one job. */
export interface JobFigures {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly figures: Readonly<Record<string, number>>;
}

const LOOK_MS = 1_000;

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
  readonly #records: Counter;

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
    this.#records = new Counter({
      name: 'shoal_edge_records_total',
      help: 'Records received from edges.',
      registers,
    });
  }

  /** Figures of the links to edges, read when they are asked for. */
  links(readAll: () => readonly LinkStatus[]): void {
    // One look for all of them: with thousands of nodes it costs something.
    let known: readonly LinkStatus[] = [];
    let readAt = Number.NEGATIVE_INFINITY;
    const read = (): readonly LinkStatus[] => {
      if (performance.now() - readAt > LOOK_MS) {
        known = readAll();
        readAt = performance.now();
      }
      return known;
    };
    const registers = [this.registry];
    const gauge = (
      name: string,
      help: string,
      figure: (link: LinkStatus) => number,
    ): Gauge<'node'> =>
      new Gauge({
        name,
        help,
        labelNames: ['node'],
        registers,
        collect() {
          this.reset();
          for (const link of read()) this.set({ node: link.node }, figure(link));
        },
      });
    gauge('shoal_edge_connected', '1 while the node is connected.', (l) =>
      l.connectedForMs === undefined ? 0 : 1,
    );
    gauge('shoal_edge_feed_lag', 'Changes not yet acknowledged, by node.', (l) => l.lag);
    gauge('shoal_edge_outbox_records', 'Records waiting at the node.', (l) => l.outbox.records);
    gauge(
      'shoal_edge_outbox_age_seconds',
      'Age of the oldest record waiting at the node.',
      (l) => l.outbox.ageMs / 1_000,
    );
    gauge('shoal_edge_refused_changes', 'Changes the node refused.', (l) => l.refusals);
    new Gauge({
      name: 'shoal_edge_sessions',
      help: 'Edge nodes connected now.',
      registers,
      collect() {
        this.set(read().filter((l) => l.connectedForMs !== undefined).length);
      },
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

  record(): void {
    this.#records.inc();
  }
}
