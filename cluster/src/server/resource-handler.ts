import { isJsonObject } from '@shoal/core';
import { type ApiObject, digString } from '../object.ts';
import type { FieldValidation } from './admission.ts';
import type { FieldManager } from './apply/managed-fields.ts';
import { type Exchange, readDeleteOptions, readJson, refuse, sendJson } from './exchange.ts';
import { ListPages, type Page } from './list-pages.ts';
import { jsonPatch, mergePatch } from './patch.ts';
import { apiVersionOf, inVersion, type Resource } from './resource-registry.ts';
import { readScale, scaleOf, withReplicas } from './scale.ts';
import { type Predicate, parseFieldSelector, parseLabelSelector } from './selectors.ts';
import { conflict, StatusError, success } from './status-error.ts';
import { strategicMergePatch } from './strategic-merge.ts';
import { toTable } from './table.ts';
import type { Target, Verbs, WriteGuard, WriteOptions } from './verbs.ts';
import { serveWatch, textOf } from './watch.ts';

/** A parsed resource URL. */
export interface ResourceRequest {
  readonly resource: Resource;
  readonly namespace: string | undefined;
  readonly name: string | undefined;
  readonly subresource: string | undefined;
  /** Looks at what is written before it is stored. */
  readonly guard: WriteGuard;
}

function wantsTable(exchange: Exchange): boolean {
  return (exchange.request.headers.accept ?? '').includes('as=Table');
}

const MAX_MANAGER_LENGTH = 128;

/** Who writes: `fieldManager`, or else the program that sent the request. */
function managerName(exchange: Exchange): string {
  const named = exchange.query.get('fieldManager') ?? '';
  if (named.length > MAX_MANAGER_LENGTH)
    refuse('Invalid', `fieldManager: Too long: may not be more than ${MAX_MANAGER_LENGTH} bytes`);
  const program = (exchange.request.headers['user-agent'] ?? '').split('/')[0] ?? '';
  return named || program.slice(0, MAX_MANAGER_LENGTH) || 'unknown';
}

function fieldManager(
  exchange: Exchange,
  target: Pick<Target, 'resource'> & { readonly subresource?: string | undefined },
  operation: FieldManager['operation'] = 'Update',
): FieldManager {
  const { resource, subresource } = target;
  return {
    name: managerName(exchange),
    operation,
    apiVersion: apiVersionOf(resource),
    subresource,
  };
}

function writeOptions(exchange: Exchange): WriteOptions {
  const mode = exchange.query.get('fieldValidation') ?? 'Warn';
  if (mode !== 'Strict' && mode !== 'Warn' && mode !== 'Ignore') {
    refuse(
      'Invalid',
      `fieldValidation: Unsupported value: ${JSON.stringify(mode)}: supported values: "Ignore", "Strict", "Warn"`,
    );
  }
  return {
    dryRun: exchange.query.getAll('dryRun').includes('All'),
    fieldValidation: mode as FieldValidation,
  };
}

function selection(exchange: Exchange, request: ResourceRequest): Predicate {
  const labels = exchange.query.get('labelSelector');
  const fields = exchange.query.get('fieldSelector');
  const tests: Predicate[] = [];
  if (labels) tests.push(parseLabelSelector(labels));
  if (fields) tests.push(parseFieldSelector(fields, request.resource));
  if (request.name !== undefined) tests.push((o) => o.metadata.name === request.name);
  return (object) => tests.every((t) => t(object));
}

/** Serves the verbs of every stored kind. */
export class ResourceHandler {
  readonly #verbs: Verbs;
  readonly #pages = new ListPages();

  constructor(verbs: Verbs) {
    this.#verbs = verbs;
  }

  async handle(exchange: Exchange, request: ResourceRequest): Promise<void> {
    if (request.name === undefined) await this.#collection(exchange, request);
    else if (request.subresource === 'scale') await this.#scale(exchange, request, request.name);
    else if (request.subresource === 'binding') await this.#bind(exchange, request, request.name);
    else if (request.subresource === 'eviction') await this.#evict(exchange, request, request.name);
    else await this.#object(exchange, request, request.name);
  }

  async #collection(exchange: Exchange, request: ResourceRequest): Promise<void> {
    switch (exchange.method) {
      case 'GET':
        return this.#list(exchange, request);
      case 'POST':
        return await this.#create(exchange, request);
      case 'DELETE':
        return await this.#deleteCollection(exchange, request);
      default:
        return refuse(
          'MethodNotAllowed',
          `${exchange.method} is not supported on ${exchange.path}`,
        );
    }
  }

  async #object(exchange: Exchange, request: ResourceRequest, name: string): Promise<void> {
    const { resource, namespace = '', subresource } = request;
    if (subresource !== undefined && !(subresource === 'status' && resource.status)) {
      refuse('NotFound', 'the server could not find the requested resource');
    }
    const target: Target = {
      resource,
      namespace,
      name,
      subresource: subresource === 'status' ? 'status' : undefined,
    };
    switch (exchange.method) {
      case 'GET':
        if (isWatch(exchange)) return this.#watch(exchange, request);
        return this.#sendObject(exchange, resource, this.#verbs.get(target));
      case 'PUT':
        return await this.#update(exchange, target, request.guard);
      case 'PATCH':
        return await this.#patch(exchange, target, request.guard);
      case 'DELETE':
        if (subresource !== undefined) break;
        return await this.#delete(exchange, target);
      default:
    }
    refuse('MethodNotAllowed', `${exchange.method} is not supported on ${exchange.path}`);
  }

  #sendObject(
    exchange: Exchange,
    resource: Resource,
    object: ApiObject,
    reply: { code?: number; warnings?: readonly string[] } = {},
  ): void {
    const warnings = [
      ...(reply.warnings ?? []),
      ...(resource.warning && exchange.method !== 'GET' ? [resource.warning] : []),
    ];
    const body = wantsTable(exchange)
      ? toTable(resource, [object], {
          nowMs: Date.now(),
          includeObject: includeObject(exchange),
          metadata: { resourceVersion: object.metadata.resourceVersion },
        })
      : textOf(inVersion(resource, object));
    sendJson(exchange, body, { ...reply, warnings });
  }

  #watch(exchange: Exchange, request: ResourceRequest): void {
    serveWatch(exchange, this.#verbs.store, {
      resource: request.resource,
      namespace: request.namespace,
      filter: selection(exchange, request),
      asTable: wantsTable(exchange),
      includeObject: includeObject(exchange),
    });
  }

  #list(exchange: Exchange, request: ResourceRequest): void {
    if (isWatch(exchange)) return this.#watch(exchange, request);
    const { resource } = request;
    const page = this.#page(exchange, request);
    const { metadata } = page;
    if (wantsTable(exchange)) {
      sendJson(
        exchange,
        toTable(resource, page.items, {
          nowMs: Date.now(),
          includeObject: includeObject(exchange),
          metadata,
        }),
      );
      return;
    }
    const head = JSON.stringify({
      kind: `${resource.kind}List`,
      apiVersion: apiVersionOf(resource),
      metadata,
    });
    sendJson(
      exchange,
      `${head.slice(0, -1)},"items":[${page.items.map((o) => textOf(inVersion(resource, o))).join(',')}]}`,
    );
  }

  #page(exchange: Exchange, request: ResourceRequest): Page {
    const limit = Number(exchange.query.get('limit') ?? 0);
    const token = exchange.query.get('continue');
    if (token) return this.#pages.next(token, limit);
    const filter = selection(exchange, request);
    const { items, revision } = this.#verbs.list(request.resource, request.namespace, filter);
    return this.#pages.first(items, revision, limit);
  }

  async #create(exchange: Exchange, request: ResourceRequest): Promise<void> {
    const { resource } = request;
    const body = await readJson(exchange);
    const inBody = isJsonObject(body) ? digString(body, 'metadata', 'namespace') : undefined;
    const namespace = request.namespace ?? (resource.namespaced ? inBody : '') ?? 'default';
    const { object, warnings } = await this.#verbs.create({ resource, namespace }, body, {
      ...writeOptions(exchange),
      manager: fieldManager(exchange, { resource }),
      guard: request.guard,
    });
    this.#sendObject(exchange, resource, object, { code: 201, warnings });
  }

  async #update(exchange: Exchange, target: Target, guard: WriteGuard): Promise<void> {
    const body = await readJson(exchange);
    const manager = fieldManager(exchange, target);
    const options = { ...writeOptions(exchange), manager, guard };
    const { object, warnings } = await this.#verbs.update(target, body, options);
    this.#sendObject(exchange, target.resource, object, { warnings });
  }

  async #patch(exchange: Exchange, target: Target, guard: WriteGuard): Promise<void> {
    const type = (exchange.request.headers['content-type'] ?? '').split(';')[0]?.trim() ?? '';
    const patch = await readJson(exchange);
    if (type === APPLY) return await this.#apply(exchange, target, { config: patch, guard });
    if (exchange.query.has('force'))
      refuse('Invalid', 'force: Forbidden: may not be specified for non-apply patch');
    const change = patcher(type, patch, target.resource);
    const options = { ...writeOptions(exchange), manager: fieldManager(exchange, target), guard };
    const { object, warnings } = await this.#verbs.modify(target, change, options);
    this.#sendObject(exchange, target.resource, object, { warnings });
  }

  async #apply(
    exchange: Exchange,
    target: Target,
    { config, guard }: { readonly config: unknown; readonly guard: WriteGuard },
  ): Promise<void> {
    if (!exchange.query.get('fieldManager'))
      refuse('Invalid', 'fieldManager: Required value: is required for apply patch');
    const { object, warnings, created } = await this.#verbs.apply(target, config, {
      ...writeOptions(exchange),
      manager: fieldManager(exchange, target, 'Apply'),
      force: exchange.query.get('force') === 'true',
      guard,
    });
    this.#sendObject(exchange, target.resource, object, { code: created ? 201 : 200, warnings });
  }

  async #delete(exchange: Exchange, target: Target): Promise<void> {
    const options = readDeleteOptions(await readJson(exchange), exchange.query);
    const { object, gone } = await this.#verbs.delete(target, options);
    const { resource, name } = target;
    const details = {
      name,
      kind: resource.plural,
      uid: object.metadata.uid ?? '',
      ...(resource.group ? { group: resource.group } : {}),
    };
    if (gone) sendJson(exchange, success(details));
    else this.#sendObject(exchange, resource, object);
  }

  async #deleteCollection(exchange: Exchange, request: ResourceRequest): Promise<void> {
    const { resource, namespace } = request;
    const options = readDeleteOptions(await readJson(exchange), exchange.query);
    const { items } = this.#verbs.list(resource, namespace, selection(exchange, request));
    for (const item of items) {
      const { namespace: home = '', name } = item.metadata;
      await this.#verbs
        .delete({ resource, namespace: home, name }, options)
        .catch((error: unknown) => {
          // Somebody else was faster.
          if (!(error instanceof StatusError) || error.code !== 404) throw error;
        });
    }
    sendJson(exchange, success({ kind: resource.plural }));
  }

  async #scale(exchange: Exchange, request: ResourceRequest, name: string): Promise<void> {
    const { resource, namespace = '' } = request;
    const paths = resource.scale;
    if (!paths) return refuse('NotFound', 'the server could not find the requested resource');
    const target: Target = { resource, namespace, name };
    const current = this.#verbs.get(target);
    if (exchange.method === 'GET') return sendJson(exchange, scaleOf(current, paths));
    if (exchange.method !== 'PUT' && exchange.method !== 'PATCH')
      refuse('MethodNotAllowed', `${exchange.method} is not supported on ${exchange.path}`);
    const body = await readJson(exchange);
    const type = (exchange.request.headers['content-type'] ?? '').split(';')[0]?.trim() ?? '';
    const patched = exchange.method === 'PATCH' ? patcher(type, body, resource) : undefined;
    const asked = (o: ApiObject): unknown => (patched ? patched(scaleOf(o, paths)) : body);
    const manager = fieldManager(exchange, request);
    const options = { ...writeOptions(exchange), manager };
    const change = (o: ApiObject): ApiObject => withReplicas(o, paths, readScale(asked(o), o));
    const { object } = await this.#verbs.modify(target, change, options);
    sendJson(exchange, scaleOf(object, paths));
  }

  /** `kubectl drain`: a delete that disruption budgets could forbid; there are none here. */
  async #evict(exchange: Exchange, request: ResourceRequest, name: string): Promise<void> {
    const { resource, namespace = '' } = request;
    if (resource.plural !== 'pods' || !resource.builtin || exchange.method !== 'POST')
      refuse('NotFound', 'the server could not find the requested resource');
    const body = await readJson(exchange);
    const options = isJsonObject(body) ? body['deleteOptions'] : undefined;
    const target: Target = { resource, namespace, name };
    await this.#verbs.delete(target, readDeleteOptions(options, exchange.query));
    sendJson(exchange, success({ name, kind: 'pods' }), { code: 201 });
  }

  async #bind(exchange: Exchange, request: ResourceRequest, name: string): Promise<void> {
    if (request.resource.plural !== 'pods' || !request.resource.builtin)
      refuse('NotFound', 'the server could not find the requested resource');
    if (exchange.method !== 'POST')
      refuse('MethodNotAllowed', `${exchange.method} is not supported on ${exchange.path}`);
    const node = digString(await readJson(exchange), 'target', 'name');
    if (!node) refuse('BadRequest', 'target.name is required');
    const target: Target = { resource: request.resource, namespace: request.namespace ?? '', name };
    await this.#verbs.modify(target, (o) => {
      const bound = digString(o, 'spec', 'nodeName');
      if (bound)
        throw conflict(
          request.resource,
          name,
          `pod ${name} is already assigned to node "${bound}"`,
        );
      return { ...o, spec: { ...o.spec, nodeName: node } };
    });
    sendJson(exchange, success({ name, kind: 'pods' }), { code: 201 });
  }
}

function isWatch(exchange: Exchange): boolean {
  const value = exchange.query.get('watch');
  return value === 'true' || value === '1';
}

function includeObject(exchange: Exchange): string {
  return exchange.query.get('includeObject') ?? 'Metadata';
}

const APPLY = 'application/apply-patch+yaml';

function patcher(
  type: string,
  patch: unknown,
  resource: Resource,
): (current: ApiObject) => unknown {
  switch (type) {
    case 'application/json-patch+json':
      return (current) => jsonPatch(current, patch);
    case 'application/merge-patch+json':
      return (current) => mergePatch(current, patch);
    case 'application/strategic-merge-patch+json':
      if (!resource.builtin) {
        refuse(
          'UnsupportedMediaType',
          'the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml',
        );
      }
      return (current) => strategicMergePatch(current, patch);
    default:
      return refuse('UnsupportedMediaType', `unsupported patch type ${JSON.stringify(type)}`);
  }
}
