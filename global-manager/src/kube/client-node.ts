import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import { HttpMethod, KubeConfig, RequestContext } from '@kubernetes/client-node';
import { type ErrorCode, fromNode, isJsonObject, isShoalError, ShoalError } from '@shoal/core';
import { type Dispatcher, fetch, type Response } from 'undici';
import type { KindRef, KubeApi, KubeEvent, KubeObject, NewObject } from './kube-api.ts';

const CODES: Readonly<Record<number, ErrorCode>> = {
  400: 'invalid_argument',
  401: 'unauthenticated',
  403: 'permission_denied',
  404: 'not_found',
  409: 'conflict',
  410: 'out_of_range',
  422: 'invalid_argument',
  429: 'unavailable',
  500: 'unavailable',
  503: 'unavailable',
  504: 'unavailable',
};
const TIMEOUT_MS = 30_000;
/** A watch that says nothing for this long (no event, no bookmark) is taken for dead. */
const WATCH_SILENCE_S = 240;
/** Credentials may rotate; connections are made anew with them this often. */
const DISPATCHER_LIFE_MS = 600_000;

function fromStatus(code: number, body: unknown, what: string): ShoalError {
  const reason = isJsonObject(body) ? body['reason'] : undefined;
  const message =
    isJsonObject(body) && typeof body['message'] === 'string' ? body['message'] : `HTTP ${code}`;
  const kind = reason === 'AlreadyExists' ? 'already_exists' : (CODES[code] ?? 'internal');
  return new ShoalError(kind, `${what}: ${message}`, { details: { status: code, reason } });
}

/**
 * The API server through `@kubernetes/client-node`: its kubeconfig handling and authentication,
 * with list, watch, timeouts and one kept connection pool of our own (its informer stops for good
 * on most errors, and it opens a connection per request; see docs/adr/0004).
 */
export class ClientNodeApi implements KubeApi {
  readonly #config: KubeConfig;
  #dispatcher: Dispatcher | undefined;
  #dispatcherAt = 0;

  /** @param kubeconfig Path of a kubeconfig; default: the usual places, or the pod's own account. */
  constructor(kubeconfig?: string) {
    this.#config = new KubeConfig();
    if (kubeconfig) this.#config.loadFromFile(kubeconfig);
    else this.#config.loadFromDefault();
  }

  #path(kind: KindRef, namespace?: string, name?: string): string {
    const base = kind.apiVersion.includes('/')
      ? `/apis/${kind.apiVersion}`
      : `/api/${kind.apiVersion}`;
    const scope = kind.namespaced && namespace ? `/namespaces/${namespace}` : '';
    return `${base}${scope}/${kind.plural}${name ? `/${name}` : ''}`;
  }

  async #fetch(
    method: string,
    path: string,
    options: { body?: unknown; signal: AbortSignal },
  ): Promise<Response> {
    const cluster = this.#config.getCurrentCluster();
    if (!cluster)
      throw new ShoalError('failed_precondition', 'the kubeconfig has no current cluster');
    const context = new RequestContext(`${cluster.server}${path}`, HttpMethod.GET);
    await this.#config.applySecurityAuthentication(context);
    if (!this.#dispatcher || Date.now() - this.#dispatcherAt > DISPATCHER_LIFE_MS) {
      this.#dispatcher = context.getDispatcher() as Dispatcher | undefined;
      this.#dispatcherAt = Date.now();
    }
    const headers: Record<string, string> = { ...context.getHeaders(), Accept: 'application/json' };
    if (options.body !== undefined) headers['Content-Type'] = 'application/json';
    try {
      return await fetch(`${cluster.server}${path}`, {
        method,
        headers,
        signal: options.signal,
        ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
        ...(this.#dispatcher ? { dispatcher: this.#dispatcher } : {}),
      });
    } catch (error) {
      if (options.signal.aborted)
        throw new ShoalError('cancelled', `${method} ${path} was cancelled`, {
          cause: error,
          retry: 'backoff',
        });
      const failure = fromNode(error, `${method} ${path}`);
      throw failure.code === 'internal'
        ? new ShoalError('unavailable', failure.message, { cause: error })
        : failure;
    }
  }

  async #json(method: string, path: string, body?: unknown): Promise<unknown> {
    const response = await this.#fetch(method, path, {
      signal: AbortSignal.timeout(TIMEOUT_MS),
      ...(body === undefined ? {} : { body }),
    });
    const answer: unknown = await response.json().catch(() => undefined);
    if (!response.ok) throw fromStatus(response.status, answer, `${method} ${path}`);
    return answer;
  }

  async list(kind: KindRef): Promise<{ items: KubeObject[]; resourceVersion: string }> {
    const items: KubeObject[] = [];
    let token = '';
    for (;;) {
      const query =
        token === '' ? '?limit=500' : `?limit=500&continue=${encodeURIComponent(token)}`;
      const page = (await this.#json('GET', this.#path(kind) + query)) as {
        items: KubeObject[];
        metadata: { resourceVersion: string; continue?: string };
      };
      items.push(
        ...page.items.map((o) => ({ ...o, apiVersion: kind.apiVersion, kind: kind.kind })),
      );
      token = page.metadata.continue ?? '';
      if (token === '') return { items, resourceVersion: page.metadata.resourceVersion };
    }
  }

  async watch(
    kind: KindRef,
    from: string,
    options: { onEvent: (event: KubeEvent) => void; signal: AbortSignal },
  ): Promise<void> {
    const path = `${this.#path(kind)}?watch=true&allowWatchBookmarks=true&timeoutSeconds=${WATCH_SILENCE_S}&resourceVersion=${from}`;
    const response = await this.#fetch('GET', path, { signal: options.signal });
    if (!response.ok)
      throw fromStatus(
        response.status,
        await response.json().catch(() => undefined),
        `watch ${kind.plural}`,
      );
    if (!response.body) return;
    try {
      for await (const line of createInterface({ input: Readable.fromWeb(response.body) })) {
        if (line === '') continue;
        const event = JSON.parse(line) as { type: string; object: KubeObject };
        if (event.type === 'ERROR')
          throw fromStatus(
            Number(event.object['code'] ?? 410),
            event.object,
            `watch ${kind.plural}`,
          );
        options.onEvent(event as KubeEvent);
      }
    } catch (error) {
      if (options.signal.aborted) return;
      if (isShoalError(error)) throw error;
      throw new ShoalError('unavailable', `watch ${kind.plural} broke off`, { cause: error });
    }
  }

  async get(kind: KindRef, namespace: string, name: string): Promise<KubeObject | undefined> {
    try {
      return (await this.#json('GET', this.#path(kind, namespace, name))) as KubeObject;
    } catch (error) {
      if (isShoalError(error) && error.code === 'not_found') return undefined;
      throw error;
    }
  }

  async create(kind: KindRef, object: NewObject): Promise<KubeObject> {
    const body = { apiVersion: kind.apiVersion, kind: kind.kind, ...object };
    const path = `${this.#path(kind, object.metadata.namespace)}?fieldValidation=Strict&fieldManager=shoal-global-manager`;
    return (await this.#json('POST', path, body)) as KubeObject;
  }

  async update(kind: KindRef, object: KubeObject, subresource?: 'status'): Promise<KubeObject> {
    const { namespace, name } = object.metadata;
    const path = this.#path(kind, namespace, name) + (subresource ? `/${subresource}` : '');
    return (await this.#json('PUT', `${path}?fieldManager=shoal-global-manager`, {
      ...object,
      apiVersion: kind.apiVersion,
      kind: kind.kind,
    })) as KubeObject;
  }

  async delete(kind: KindRef, namespace: string, name: string): Promise<void> {
    try {
      await this.#json('DELETE', this.#path(kind, namespace, name), {
        propagationPolicy: 'Background',
      });
    } catch (error) {
      if (!isShoalError(error) || error.code !== 'not_found') throw error;
    }
  }
}
