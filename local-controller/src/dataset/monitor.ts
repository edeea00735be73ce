import { existsSync } from 'node:fs';
import {
  type DatasetAssignment,
  type DatasetReport,
  type DatasetSourceStatus,
  recordKey,
} from '@shoal/api';
import { type Logger, messageOf } from '@shoal/core';
import type { Link } from '../link/link.ts';
import type { EdgeDatabase } from '../store/database.ts';
import { datasetFormat } from './formats.ts';
import { countLines, type FileProgress, NOTHING_READ, samplesIn } from './growing-file.ts';
import { datasetPath } from './remote-datasets.ts';
import { countWhole, isWholeFormat, stampOf } from './whole-formats.ts';

export interface MonitorPorts {
  readonly db: EdgeDatabase;
  readonly link: Pick<Link, 'report'>;
  /** Who pushes samples into datasets, if anybody. */
  readonly sources?: {
    readonly status: (dataset: DatasetAssignment) => DatasetSourceStatus | undefined;
  };
  readonly logger: Logger;
  /** A host path as this process sees it. */
  readonly hostPath: (path: string) => string;
}

/** Counts the samples of every dataset of this node and reports what changed. */
export class DatasetMonitor {
  readonly #ports: MonitorPorts;
  /** Datasets that are being counted as a whole. */
  readonly #counting = new Set<string>();

  constructor(ports: MonitorPorts) {
    this.#ports = ports;
  }

  /** Samples counted last; undefined for a dataset that cannot be read. */
  count(dataset: DatasetAssignment): number | undefined {
    return this.#ports.db.progress<{ samples?: number }>(`dataset/${dataset.metadata.uid}`)
      ?.samples;
  }

  /** Looks at every dataset once. */
  poll(): void {
    for (const object of this.#ports.db.objects('Dataset'))
      this.check(object.body as DatasetAssignment);
  }

  /** Looks at one dataset; returns its samples. */
  check(dataset: DatasetAssignment): number | undefined {
    const { db, link, logger, hostPath } = this.#ports;
    const { uid = '' } = dataset.metadata;
    const key = `dataset/${uid}`;
    const known = db.progress<{ file: FileProgress; url: string }>(key);
    const source = this.#ports.sources?.status(dataset);
    const report = (body: DatasetReport): void =>
      link.report(recordKey('Dataset', dataset.metadata), {
        ...body,
        ...(source === undefined ? {} : { source }),
      });
    try {
      if (isWholeFormat(dataset.spec.format)) return this.#whole(dataset, report);
      const format = datasetFormat(dataset.spec.format);
      const path = hostPath(datasetPath(dataset));
      // A remote dataset that is not here yet is no fault.
      if (dataset.spec.fetchUrl !== undefined && !existsSync(path)) return undefined;
      // Nor is one that nothing was pushed into yet.
      if (source !== undefined && !existsSync(path)) {
        report({ uid, numberOfSamples: 0 });
        return 0;
      }
      const before = known?.url === dataset.spec.url ? known.file : NOTHING_READ;
      const { progress, rewritten } = countLines(path, before);
      if (rewritten)
        logger.warn('dataset was rewritten or has shrunk, counting from its start', {
          dataset: dataset.metadata.name,
        });
      const samples = samplesIn(progress, format);
      if (progress !== before)
        db.setProgress(key, { file: progress, url: dataset.spec.url, samples });
      report({ uid, numberOfSamples: samples });
      return samples;
    } catch (error) {
      report({ uid, fault: messageOf(error) });
      return undefined;
    }
  }

  /** A dataset that is read as a whole is counted again, aside, when it has changed. */
  #whole(dataset: DatasetAssignment, report: (body: DatasetReport) => void): number | undefined {
    const { db, hostPath } = this.#ports;
    const { uid = '' } = dataset.metadata;
    const { url, format } = dataset.spec;
    const path = hostPath(datasetPath(dataset));
    if (dataset.spec.fetchUrl !== undefined && !existsSync(path)) return undefined;
    const key = `dataset/${uid}`;
    const known = db.progress<{ stamp?: string; url: string; samples: number }>(key);
    const stamp = stampOf(path);
    if (known?.stamp === stamp && known.url === url) {
      report({ uid, numberOfSamples: known.samples });
      return known.samples;
    }
    if (this.#counting.has(uid)) return known?.samples;
    this.#counting.add(uid);
    void countWhole(path, format)
      .then((samples) => {
        db.setProgress(key, { stamp, url, samples });
        report({ uid, numberOfSamples: samples });
      })
      .catch((error: unknown) => report({ uid, fault: messageOf(error) }))
      .finally(() => this.#counting.delete(uid));
    return known?.samples;
  }
}
