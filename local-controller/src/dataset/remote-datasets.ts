import { join } from 'node:path/posix';
import { type DatasetAssignment, recordKey } from '@shoal/api';
import { type Clock, discard, download, httpSource, type Logger, messageOf } from '@shoal/core';
import type { Link } from '../link/link.ts';
import type { EdgeDatabase } from '../store/database.ts';
import { isRemote } from './remote-url.ts';

/** How often a remote dataset is looked at. */
const LOOK_MS = 10_000;
/** How often a dataset is fetched whose server gives no version. */
const BLIND_MS = 10 * 60 * 1000;
const FOLDER = '/var/lib/sedna/datasets';

/** Host path of a dataset: its own, or that of the copy a remote one has on this node. */
export function datasetPath(dataset: DatasetAssignment): string {
  const { url } = dataset.spec;
  if (!isRemote(url)) return url;
  const name = new URL(url).pathname.split('/').at(-1) || 'data';
  return join(FOLDER, (dataset.metadata.uid ?? '').slice(0, 8), name);
}

export interface RemoteDatasetPorts {
  readonly db: EdgeDatabase;
  readonly link: Link;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly hostPath: (path: string) => string;
  /** Largest dataset fetched, in bytes. */
  readonly maxBytes: number;
}

/** Keeps a copy of every remote dataset of this node: fetched anew when it has changed. */
export class RemoteDatasets {
  readonly #ports: RemoteDatasetPorts;
  readonly #busy = new Set<string>();
  readonly #lookAt = new Map<string, number>();

  constructor(ports: RemoteDatasetPorts) {
    this.#ports = ports;
  }

  /** Looks at every remote dataset whose turn it is. */
  poll(): void {
    for (const object of this.#ports.db.objects('Dataset')) {
      const dataset = object.body as DatasetAssignment;
      if (dataset.spec.fetchUrl !== undefined) void this.#look(dataset, dataset.spec.fetchUrl);
    }
  }

  async #look(dataset: DatasetAssignment, address: string): Promise<void> {
    const { clock, logger, link } = this.#ports;
    const { uid = '', name } = dataset.metadata;
    if (this.#busy.has(uid) || clock.now() < (this.#lookAt.get(uid) ?? 0)) return;
    this.#busy.add(uid);
    try {
      await this.#fetch(dataset, address);
    } catch (error) {
      const reason = messageOf(error);
      logger.warn('remote dataset not fetched, will retry', { dataset: name, reason });
      // What was fetched before is still there: only a first copy that fails is told.
      if (this.#version(uid) === undefined)
        link.report(recordKey('Dataset', dataset.metadata), { uid, fault: reason });
    } finally {
      this.#lookAt.set(uid, clock.now() + LOOK_MS);
      this.#busy.delete(uid);
    }
  }

  #version(uid: string): string | undefined {
    return this.#ports.db.progress<string>(`remote/${uid}`);
  }

  async #fetch(dataset: DatasetAssignment, address: string): Promise<void> {
    const { db, hostPath, maxBytes, clock } = this.#ports;
    const { uid = '' } = dataset.metadata;
    const source = httpSource(new URL(address), dataset.spec.url);
    const content = await source.open(0, undefined);
    discard(content);
    const { version } = content;
    const known = this.#version(uid);
    if (version !== '' && version === known) return;
    // A server that does not say when something changed is believed for a while.
    const at = Number(/^at (\d+)$/.exec(known ?? '')?.[1] ?? Number.NaN);
    if (version === '' && clock.now() - at < BLIND_MS) return;
    await download(source, hostPath(datasetPath(dataset)), { maxBytes, attempts: 3, clock });
    db.setProgress(`remote/${uid}`, version || `at ${clock.now()}`);
  }
}
