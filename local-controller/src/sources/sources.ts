import { closeSync, existsSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import type { DatasetAssignment, DatasetSourceStatus } from '@shoal/api';
import {
  type Clock,
  canonicalJson,
  digestOf,
  fromNode,
  isShoalError,
  type Logger,
  messageOf,
  rfc3339,
  ShoalError,
} from '@shoal/core';
import { datasetFormat } from '../dataset/formats.ts';
import { readHeader, sampleLines } from '../dataset/lines.ts';
import { isRemote } from '../dataset/remote-url.ts';
import type { EdgeDatabase } from '../store/database.ts';
import { DirectorySource } from './directory.ts';
import { HttpSource } from './http.ts';
import type { SampleIntake } from './intake.ts';
import { MqttSource } from './mqtt.ts';
import type { PluginFactories } from './plugins.ts';
import type { SampleSink, SampleSource, SourceContext, SourceHealth, Taken } from './source.ts';

export interface SourcePorts {
  readonly db: EdgeDatabase;
  readonly intake: SampleIntake;
  readonly plugins: PluginFactories;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly hostPath: (path: string) => string;
}

type SourceSpec = NonNullable<DatasetAssignment['spec']['source']>;
type Kind = 'mqtt' | 'http' | 'directory' | 'plugin';

const KINDS: readonly Kind[] = ['mqtt', 'http', 'directory', 'plugin'];
const DEFAULT_BYTES = 1024 ** 3;
/** A source that cannot be made is tried again after this long. */
const RETRY_MS = 15_000;

/** A source that runs, or why it does not. */
interface Running {
  readonly digest: string;
  readonly source: SampleSource | undefined;
  readonly fault?: string;
  readonly retryAtMs: number;
}

function kindOf(spec: SourceSpec): Kind {
  const given = KINDS.filter((kind) => spec[kind] !== undefined);
  const [kind] = given;
  if (kind === undefined || given.length > 1)
    throw new ShoalError(
      'invalid_argument',
      `spec.source needs exactly one of ${KINDS.join(', ')}; it has ${given.join(' and ') || 'none'}`,
    );
  return kind;
}

/** Who pushes samples into the datasets of this node: starts, stops and watches them. */
export class DatasetSources {
  readonly #ports: SourcePorts;
  readonly #running = new Map<string, Running>();
  readonly #busy = new Set<string>();
  #flushFaults: ReadonlyMap<string, unknown> = new Map();
  #isClosed = false;

  constructor(ports: SourcePorts) {
    this.#ports = ports;
  }

  #datasets(): DatasetAssignment[] {
    return this.#ports.db
      .objects('Dataset')
      .map((o) => o.body as DatasetAssignment)
      .filter((d) => d.spec.source !== undefined);
  }

  /** Looks at every dataset once: starts and stops sources, and moves what came in to its file. */
  poll(): void {
    const { intake, clock } = this.#ports;
    const here = new Set<string>();
    for (const dataset of this.#datasets()) {
      const { uid = '' } = dataset.metadata;
      here.add(uid);
      this.#seen(dataset);
      void this.#guarded(uid, async () => {
        await this.#ensure(dataset);
        await this.#running.get(uid)?.source?.poll?.();
      });
    }
    for (const uid of this.#running.keys())
      if (!here.has(uid)) void this.#guarded(uid, async () => await this.#stop(uid, true));
    this.#flushFaults = intake.flush();
    intake.forgetOld(clock.now());
  }

  async #guarded(uid: string, step: () => Promise<void>): Promise<void> {
    if (this.#busy.has(uid)) return;
    this.#busy.add(uid);
    try {
      await step();
    } catch (error) {
      this.#ports.logger.warn('a source of samples failed', { reason: messageOf(error) });
    } finally {
      this.#busy.delete(uid);
    }
  }

  async #stop(uid: string, isForGood: boolean): Promise<void> {
    const running = this.#running.get(uid);
    this.#running.delete(uid);
    await running?.source?.close(isForGood);
  }

  /** The dataset is here, whatever becomes of its source: what it got before is remembered. */
  #seen(dataset: DatasetAssignment): void {
    try {
      this.#begin(dataset);
    } catch {
      // Its source will say what is wrong with it.
    }
  }

  async #ensure(dataset: DatasetAssignment): Promise<void> {
    const { clock, logger } = this.#ports;
    const { uid = '', name } = dataset.metadata;
    const digest = digestOf(canonicalJson(dataset.spec));
    const known = this.#running.get(uid);
    const isDue = known?.source === undefined && clock.now() >= (known?.retryAtMs ?? 0);
    if (known?.digest === digest && !isDue) return;
    // Not for good: between two subscriptions nothing may be lost.
    await this.#stop(uid, false);
    const retryAtMs = clock.now() + RETRY_MS;
    try {
      const source = await this.#open(dataset);
      if (this.#isClosed) return await source.close(false);
      this.#running.set(uid, { digest, source, retryAtMs });
      logger.info('source of samples started', { dataset: name });
    } catch (error) {
      const fault = messageOf(error);
      this.#running.set(uid, { digest, source: undefined, fault, retryAtMs });
    }
  }

  #path(dataset: DatasetAssignment): string {
    const { url } = dataset.spec;
    if (isRemote(url))
      throw new ShoalError(
        'invalid_argument',
        `spec.url: ${url} is remote: nothing can be appended there; a dataset with a source has its file on the node`,
      );
    return this.#ports.hostPath(url);
  }

  #begin(dataset: DatasetAssignment): void {
    const { uid = '' } = dataset.metadata;
    this.#ports.intake.begin(uid, this.#path(dataset), this.#ports.clock.now());
  }

  async #open(dataset: DatasetAssignment): Promise<SampleSource> {
    const { source: spec } = dataset.spec;
    if (!spec) throw new ShoalError('internal', 'a dataset without a source');
    const kind = kindOf(spec);
    const path = this.#path(dataset);
    const format = datasetFormat(dataset.spec.format);
    if (format.headerLines === 0) touch(path);
    this.#begin(dataset);
    const context = this.#context(dataset, spec);
    if (kind === 'mqtt' && spec.mqtt)
      return await MqttSource.open({ ...context, options: spec.mqtt });
    if (kind === 'directory' && spec.directory)
      return new DirectorySource({ ...context, options: spec.directory });
    if (kind === 'http') return new HttpSource({ ...context, options: spec.http ?? {} });
    return await this.#plugin(context, spec.plugin);
  }

  async #plugin(context: SourceContext, plugin: SourceSpec['plugin']): Promise<SampleSource> {
    const { plugins } = this.#ports;
    const { name = '', parameters = [] } = plugin ?? {};
    const make = Object.hasOwn(plugins, name) ? plugins[name] : undefined;
    if (!make)
      throw new ShoalError(
        'not_found',
        `this node has no source "${name}"; it has ${Object.keys(plugins).join(', ') || 'none'} (SHOAL_LC_SOURCE_PLUGINS)`,
      );
    const options = {
      name,
      parameters: Object.fromEntries(parameters.map((p) => [p.key, p.value])),
    };
    return await make({ ...context, options });
  }

  #context(dataset: DatasetAssignment, spec: SourceSpec): SourceContext {
    const { hostPath, clock, logger } = this.#ports;
    const { uid = '', name, namespace = '' } = dataset.metadata;
    return {
      options: undefined,
      credentials: dataset.spec.credentials ?? {},
      dataset: { uid, name, namespace },
      sink: this.#sink(dataset, spec.maxBytes ?? DEFAULT_BYTES),
      hostPath,
      clock,
      logger,
    };
  }

  #sink(dataset: DatasetAssignment, maxBytes: number): SampleSink {
    const { intake, clock } = this.#ports;
    const { uid = '' } = dataset.metadata;
    const format = datasetFormat(dataset.spec.format);
    const path = this.#path(dataset);
    const hasRoom = (more: number): boolean => intake.bytes(uid) + more <= maxBytes;
    return {
      take: (delivery): Taken => {
        if (intake.isKnown(uid, delivery)) return { samples: 0, refused: [] };
        if (delivery.payload.length > maxBytes)
          throw new ShoalError(
            'invalid_argument',
            `${delivery.payload.length} bytes are more than spec.source.maxBytes (${maxBytes}) will ever hold`,
          );
        if (!hasRoom(delivery.payload.length))
          throw new ShoalError(
            'resource_exhausted',
            `${dataset.spec.url} has reached spec.source.maxBytes (${maxBytes} bytes): move samples away, or raise it`,
          );
        const header = format.headerLines === 1 ? columnsOf(path, dataset.spec.url) : [];
        const lines = sampleLines(delivery.payload, format, header);
        return {
          samples: intake.take(uid, delivery, lines, clock.now()),
          refused: lines.refused,
        };
      },
      knows: (id) => intake.isKnown(uid, { id, payload: Buffer.alloc(0) }),
      refuse: (delivery, reason) =>
        void intake.take(
          uid,
          { ...delivery, payload: Buffer.alloc(0) },
          { lines: [], refused: [reason], rejected: 1 },
          clock.now(),
        ),
      keepOnly: (ids) => intake.keepOnly(uid, ids),
      hasRoom,
    };
  }

  /**
   * Who takes requests for a dataset here.
   *
   * @throws ShoalError `not_found`.
   */
  requests(namespace: string, name: string): Pick<HttpSource, 'admit' | 'accept'> {
    const found = this.#datasets().find(
      ({ metadata }) => metadata.namespace === namespace && metadata.name === name,
    );
    const source = this.#running.get(found?.metadata.uid ?? '')?.source;
    if (source instanceof HttpSource) return source;
    throw new ShoalError(
      'not_found',
      `dataset ${namespace}/${name} takes no samples by HTTP on this node; set spec.source.http`,
    );
  }

  /** What the cloud is told of a dataset’s source. */
  status(dataset: DatasetAssignment): DatasetSourceStatus | undefined {
    const { uid = '' } = dataset.metadata;
    // Jobs name the same dataset without its source.
    if (dataset.spec.source === undefined && !this.#running.has(uid)) return undefined;
    const { lastMs, ...counts } = this.#ports.intake.counts(uid);
    const { state, message } = this.#health(uid);
    return {
      state,
      ...(message === undefined ? {} : { message }),
      ...counts,
      ...(lastMs === undefined ? {} : { lastSampleTime: rfc3339(lastMs) }),
    };
  }

  #health(uid: string): SourceHealth {
    const running = this.#running.get(uid);
    if (!running) return { state: 'Connecting', message: 'not started yet' };
    if (!running.source) return { state: 'Failed', message: running.fault ?? 'not started' };
    const fault = this.#flushFaults.get(uid);
    // A file that somebody is writing to just now is no fault.
    if (fault !== undefined && !(isShoalError(fault) && fault.code === 'unavailable'))
      return { state: 'Failed', message: messageOf(fault) };
    return running.source.health();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const uid of this.#running.keys())
      await this.#stop(uid, false).catch((error: unknown) =>
        this.#ports.logger.warn('a source did not close', { reason: messageOf(error) }),
      );
    this.#ports.intake.flush();
    this.#ports.intake.close();
  }
}

/** @throws ShoalError `failed_precondition` for a CSV file without a header line. */
function columnsOf(path: string, url: string): readonly string[] {
  const header = existsSync(path) ? readHeader(path) : [];
  if (header.join('') === '')
    throw new ShoalError(
      'failed_precondition',
      `${url} has no header line: samples cannot be written into its columns; create the file with one`,
    );
  return header;
}

/** A dataset that nothing was sent to yet has no samples, and is no fault. */
function touch(path: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true });
    closeSync(openSync(path, 'a'));
  } catch (error) {
    throw fromNode(error, `creating ${path}`);
  }
}
