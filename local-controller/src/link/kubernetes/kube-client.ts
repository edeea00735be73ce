import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import { HttpMethod, KubeConfig, RequestContext } from '@kubernetes/client-node';
import { type ErrorCode, fromNode, isJsonObject, isShoalError, ShoalError } from '@shoal/core';
import { type Dispatcher, fetch, type Response } from 'undici';

const CODES: Readonly<Record<number, ErrorCode>> = {
  400: 'invalid_argument',
  401: 'unauthenticated',
  403: 'permission_denied',
  404: 'not_found',
  409: 'conflict',
  410: 'out_of_range',
  422: 'invalid_argument',
};
const TIMEOUT_MS = 15_000;
const WATCH_S = 240;
const CONFIG_LIFE_MS = 600_000;

/** An object as the API server returns it. */
export interface KubeObject {
  readonly metadata: { readonly name: string; readonly resourceVersion?: string };
  readonly [field: string]: unknown;
}

export interface KubeEvent {
  readonly type: string;
  readonly object: KubeObject;
}

/** What a node asks of an API server: its own namespace’s objects, by path. */
export interface NodeKubeApi {
  list(path: string): Promise<{ items: KubeObject[]; resourceVersion: string }>;
  /**
   * Delivers changes after a version until the server ends the watch or the signal aborts.
   *
   * @throws ShoalError `out_of_range` when the version is too old.
   */
  watch(
    path: string,
    from: string,
    options: { onEvent: (event: KubeEvent) => void; signal: AbortSignal },
  ): Promise<void>;
  get(path: string): Promise<KubeObject | undefined>;
  /** @throws ShoalError `conflict` when it is there, or is of another version. */
  send(method: 'POST' | 'PUT', path: string, object: object): Promise<KubeObject>;
}

function failure(code: number, body: unknown, what: string): ShoalError {
  const said = isJsonObject(body) ? body['message'] : undefined;
  const message = typeof said === 'string' ? said : `HTTP ${code}`;
  return new ShoalError(CODES[code] ?? 'unavailable', `${what}: ${message}`);
}

/** An API server by a kubeconfig, or KubeEdge’s own at the edge. */
export class KubeClient implements NodeKubeApi {
  readonly #kubeconfig: string;
  #config: KubeConfig;
  #dispatcher: Dispatcher | undefined;
  #loadedAt: number;

  /** @param kubeconfig Path of a kubeconfig; empty: the usual places, or the pod’s own account. */
  constructor(kubeconfig: string) {
    this.#kubeconfig = kubeconfig;
    this.#config = this.#load();
    this.#loadedAt = Date.now();
  }

  #load(): KubeConfig {
    const config = new KubeConfig();
    if (this.#kubeconfig === '') config.loadFromDefault();
    else config.loadFromFile(this.#kubeconfig);
    return config;
  }

  /** Credentials in the file may rotate. */
  #refresh(): void {
    if (Math.abs(Date.now() - this.#loadedAt) < CONFIG_LIFE_MS) return;
    this.#config = this.#load();
    this.#dispatcher = undefined;
    this.#loadedAt = Date.now();
  }

  async #fetch(
    method: string,
    path: string,
    options: { body?: object; signal: AbortSignal },
  ): Promise<Response> {
    this.#refresh();
    const cluster = this.#config.getCurrentCluster();
    if (!cluster)
      throw new ShoalError('failed_precondition', 'the kubeconfig has no current cluster');
    const context = new RequestContext(`${cluster.server}${path}`, HttpMethod.GET);
    await this.#config.applySecurityAuthentication(context);
    this.#dispatcher ??= context.getDispatcher() as Dispatcher | undefined;
    try {
      return await fetch(`${cluster.server}${path}`, {
        method,
        headers: {
          ...context.getHeaders(),
          Accept: 'application/json',
          'Content-Type': 'application/json',
        },
        signal: options.signal,
        ...(options.body ? { body: JSON.stringify(options.body) } : {}),
        ...(this.#dispatcher ? { dispatcher: this.#dispatcher } : {}),
      });
    } catch (error) {
      const known = fromNode(error, `${method} ${path}`);
      throw known.code === 'internal'
        ? new ShoalError('unavailable', known.message, { cause: error })
        : known;
    }
  }

  async #json(method: string, path: string, body?: object): Promise<unknown> {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const response = await this.#fetch(method, path, { signal, ...(body ? { body } : {}) });
    const answer: unknown = await response.json().catch(() => undefined);
    if (!response.ok) throw failure(response.status, answer, `${method} ${path}`);
    return answer;
  }

  async list(path: string): Promise<{ items: KubeObject[]; resourceVersion: string }> {
    const items: KubeObject[] = [];
    let token = '';
    for (;;) {
      const more = token === '' ? '' : `&continue=${encodeURIComponent(token)}`;
      const page = (await this.#json('GET', `${path}?limit=500${more}`)) as {
        items: KubeObject[];
        metadata: { resourceVersion: string; continue?: string };
      };
      items.push(...page.items);
      token = page.metadata.continue ?? '';
      if (token === '') return { items, resourceVersion: page.metadata.resourceVersion };
    }
  }

  async watch(
    path: string,
    from: string,
    options: { onEvent: (event: KubeEvent) => void; signal: AbortSignal },
  ): Promise<void> {
    const query = `watch=true&allowWatchBookmarks=true&timeoutSeconds=${WATCH_S}&resourceVersion=${from}`;
    const response = await this.#fetch('GET', `${path}?${query}`, { signal: options.signal });
    if (!response.ok || !response.body)
      throw failure(response.status, await response.json().catch(() => undefined), `watch ${path}`);
    try {
      for await (const line of createInterface({ input: Readable.fromWeb(response.body) })) {
        if (line === '') continue;
        const event = JSON.parse(line) as KubeEvent;
        if (event.type === 'ERROR')
          throw failure(Number(event.object['code'] ?? 410), event.object, `watch ${path}`);
        options.onEvent(event);
      }
    } catch (error) {
      if (options.signal.aborted) return;
      if (isShoalError(error)) throw error;
      throw new ShoalError('unavailable', `watch ${path} broke off`, { cause: error });
    }
  }

  async get(path: string): Promise<KubeObject | undefined> {
    try {
      return (await this.#json('GET', path)) as KubeObject;
    } catch (error) {
      if (isShoalError(error) && error.code === 'not_found') return undefined;
      throw error;
    }
  }

  async send(method: 'POST' | 'PUT', path: string, object: object): Promise<KubeObject> {
    return (await this.#json(method, path, object)) as KubeObject;
  }
}
