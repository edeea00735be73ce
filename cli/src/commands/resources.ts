import type { ApiClient } from '@shoal/cluster';
import { isJsonObject, isShoalError, type JsonObject, ShoalError } from '@shoal/core';

/** A kind as discovery describes it. */
export interface ResourceInfo {
  readonly apiVersion: string;
  readonly kind: string;
  readonly plural: string;
  readonly namespaced: boolean;
  readonly names: readonly string[];
}

interface Discovered {
  readonly resource: string;
  readonly singularResource: string;
  readonly shortNames?: readonly string[];
  readonly scope: string;
  readonly responseKind: { readonly kind: string };
}

async function discover(client: ApiClient, path: string): Promise<ResourceInfo[]> {
  const accept = 'application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList';
  const answer = (await client.request('GET', path, undefined, { accept })) as {
    items: {
      metadata: { name?: string };
      versions: { version: string; resources: Discovered[] }[];
    }[];
  };
  return answer.items.flatMap(({ metadata, versions }) =>
    versions.flatMap(({ version, resources }) =>
      resources.map((r) => ({
        apiVersion: metadata.name ? `${metadata.name}/${version}` : version,
        kind: r.responseKind.kind,
        plural: r.resource,
        namespaced: r.scope === 'Namespaced',
        names: [
          r.resource,
          r.singularResource,
          r.responseKind.kind.toLowerCase(),
          ...(r.shortNames ?? []),
        ],
      })),
    ),
  );
}

/** The commands of `shoal` on objects: the API server's verbs by kind and name. */
export class Resources {
  readonly #client: ApiClient;
  #known: readonly ResourceInfo[] | undefined;

  constructor(client: ApiClient) {
    this.#client = client;
  }

  async #all(): Promise<readonly ResourceInfo[]> {
    this.#known ??= [
      ...(await discover(this.#client, '/api')),
      ...(await discover(this.#client, '/apis')),
    ];
    return this.#known;
  }

  /** Finds a kind by name, plural or short name. @throws ShoalError `not_found` with near misses. */
  async find(name: string): Promise<ResourceInfo> {
    const wanted = name.toLowerCase();
    const all = await this.#all();
    const found = all.find((r) => r.names.includes(wanted));
    if (found) return found;
    const near = all
      .filter((r) => r.names.some((n) => n.startsWith(wanted.slice(0, 3))))
      .map((r) => r.plural);
    throw new ShoalError(
      'not_found',
      `the server has no kind "${name}"${near.length > 0 ? `; did you mean ${near.slice(0, 4).join(', ')}?` : ''}`,
    );
  }

  path(resource: ResourceInfo, namespace: string | undefined, name?: string): string {
    const base = resource.apiVersion.includes('/')
      ? `/apis/${resource.apiVersion}`
      : `/api/${resource.apiVersion}`;
    const scope = resource.namespaced && namespace !== undefined ? `/namespaces/${namespace}` : '';
    return `${base}${scope}/${resource.plural}${name === undefined ? '' : `/${name}`}`;
  }

  async get(kind: string, namespace: string, name: string): Promise<JsonObject | undefined> {
    const resource = await this.find(kind);
    try {
      return (await this.#client.request(
        'GET',
        this.path(resource, namespace, name),
      )) as JsonObject;
    } catch (error) {
      if (isShoalError(error) && error.code === 'not_found') return undefined;
      throw error;
    }
  }

  /** Creates an object, or replaces what differs of an existing one. */
  async apply(
    object: JsonObject,
    namespace: string,
  ): Promise<{ kind: string; name: string; what: 'created' | 'configured' | 'unchanged' }> {
    const { apiVersion, kind, metadata } = object;
    const given = isJsonObject(metadata) ? metadata['name'] : undefined;
    const name = typeof given === 'string' ? given : '';
    if (typeof apiVersion !== 'string' || typeof kind !== 'string' || name === '') {
      throw new ShoalError(
        'invalid_argument',
        'every document needs apiVersion, kind and metadata.name',
      );
    }
    const resource = (await this.#all()).find(
      (r) => r.apiVersion === apiVersion && r.kind === kind,
    );
    if (!resource)
      throw new ShoalError('not_found', `the server does not know ${apiVersion} ${kind}`);
    const inNamespace =
      isJsonObject(metadata) && typeof metadata['namespace'] === 'string'
        ? metadata['namespace']
        : namespace;
    const label = `${resource.plural}/${name}`;
    const query = '?fieldValidation=Strict&fieldManager=shoal';
    const current = await this.get(kind, inNamespace, name);
    if (!current) {
      await this.#client.request('POST', this.path(resource, inNamespace) + query, object);
      return { kind: label, name, what: 'created' };
    }
    const merged = { ...object, metadata: { ...(metadata as object) } };
    const path = this.path(resource, inNamespace, name) + query;
    const updated = (await this.#client.request('PATCH', path, merged, {
      contentType: 'application/merge-patch+json',
    })) as JsonObject;
    const version = (o: JsonObject): unknown =>
      isJsonObject(o['metadata']) ? o['metadata']['resourceVersion'] : undefined;
    return {
      kind: label,
      name,
      what: version(updated) === version(current) ? 'unchanged' : 'configured',
    };
  }

  /** The last lines of a pod’s log. */
  async log(namespace: string, pod: string, lines = 20): Promise<string> {
    const chunks: Buffer[] = [];
    const path = `/api/v1/namespaces/${namespace}/pods/${pod}/log?tailLines=${lines}`;
    await this.#client.stream(path, (chunk) => chunks.push(chunk), AbortSignal.timeout(10_000));
    return Buffer.concat(chunks).toString('utf8');
  }

  /** Deletes an object and waits until it is gone. False when it was not there. */
  async remove(
    kind: string,
    namespace: string,
    name: string,
    timeoutMs = 60_000,
  ): Promise<boolean> {
    const resource = await this.find(kind);
    const path = this.path(resource, namespace, name);
    try {
      await this.#client.request('DELETE', path, { propagationPolicy: 'Background' });
    } catch (error) {
      if (isShoalError(error) && error.code === 'not_found') return false;
      throw error;
    }
    const deadline = Date.now() + timeoutMs;
    while (await this.get(kind, namespace, name)) {
      if (Date.now() > deadline)
        throw new ShoalError(
          'deadline_exceeded',
          `${resource.plural}/${name} is still being deleted after ${timeoutMs / 1000} s`,
        );
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    return true;
  }
}
