import { isDeepStrictEqual } from 'node:util';
import { type ApiObject, digList, digNumber, digObject, digString } from '../object.ts';
import {
  type Controller,
  type ControllerContext,
  ignoreNotFound,
  type Kinds,
  keyOf,
  splitKey,
} from './control-loop.ts';
import { isReady } from './pod-state.ts';

/** Resolves a Service's targetPort against a pod: a number, or the name of a container port. */
function targetPort(port: unknown, pod: ApiObject): number | undefined {
  const number = digNumber(port, 'targetPort');
  if (number !== undefined) return number;
  const name = digString(port, 'targetPort');
  if (name !== undefined && /^\d+$/.test(name)) return Number(name);
  const ports = digList(pod, 'spec', 'containers').flatMap((c) => digList(c, 'ports'));
  const found = ports.find((p) => digString(p, 'name') === name);
  return digNumber(found, 'containerPort') ?? digNumber(port, 'port');
}

/** Lists the ready pods behind each Service, as Endpoints and as an EndpointSlice. */
export class EndpointsController implements Controller {
  readonly name = 'endpoints';
  readonly #context: ControllerContext;
  readonly #kinds: Kinds;

  constructor(context: ControllerContext, kinds: Kinds) {
    this.#context = context;
    this.#kinds = kinds;
  }

  keysOf(event: { resource: string; object: ApiObject }): string[] {
    if (event.resource === '/services') return [keyOf(event.object)];
    if (event.resource !== '/pods') return [];
    const labels = event.object.metadata.labels ?? {};
    return this.#kinds
      .list('services', event.object.metadata.namespace)
      .filter((s) => selects(s, labels))
      .map(keyOf);
  }

  async reconcile(key: string): Promise<void> {
    const [namespace, name] = splitKey(key);
    const service = this.#kinds.find('services', namespace, name);
    if (!service) return await this.#remove(namespace, name);
    if (Object.keys(digObject(service, 'spec', 'selector')).length === 0) return;
    const pods = this.#kinds
      .list('pods', namespace)
      .filter(
        (p) =>
          selects(service, p.metadata.labels ?? {}) &&
          digString(p, 'status', 'podIP') &&
          !p.metadata.deletionTimestamp,
      );
    await this.#put('endpoints', service, name, { subsets: subsetsOf(service, pods) });
    await this.#put('endpointslices', service, `${name}-shoal`, sliceOf(service, pods));
  }

  async #remove(namespace: string, name: string): Promise<void> {
    for (const [plural, objectName] of [
      ['endpoints', name],
      ['endpointslices', `${name}-shoal`],
    ] as const) {
      await ignoreNotFound(
        this.#context.verbs.delete(this.#kinds.target(plural, namespace, objectName)),
      );
    }
  }

  async #put(plural: string, service: ApiObject, name: string, body: object): Promise<void> {
    const { namespace = '', uid = '', name: serviceName } = service.metadata;
    const existing = this.#kinds.find(plural, namespace, name);
    if (existing) {
      const { apiVersion, kind, metadata, ...rest } = existing;
      if (isDeepStrictEqual(rest, body)) return;
      await this.#context.verbs.modify(this.#kinds.target(plural, namespace, name), () => ({
        apiVersion,
        kind,
        metadata,
        ...body,
      }));
      return;
    }
    const ownerReferences = [
      {
        apiVersion: 'v1',
        kind: 'Service',
        name: serviceName,
        uid,
        controller: true,
        blockOwnerDeletion: true,
      },
    ];
    const labels = { 'kubernetes.io/service-name': serviceName };
    await this.#kinds.create(plural, namespace, {
      metadata: { name, labels, ownerReferences },
      ...body,
    });
  }
}

function selects(service: ApiObject, labels: Readonly<Record<string, string>>): boolean {
  const wanted = Object.entries(digObject(service, 'spec', 'selector'));
  return wanted.length > 0 && wanted.every(([k, v]) => labels[k] === v);
}

function targetRef(pod: ApiObject): object {
  return {
    kind: 'Pod',
    namespace: pod.metadata.namespace,
    name: pod.metadata.name,
    uid: pod.metadata.uid,
  };
}

function subsetsOf(service: ApiObject, pods: readonly ApiObject[]): object[] {
  const groups = new Map<string, { ports: object[]; ready: object[]; notReady: object[] }>();
  for (const pod of pods) {
    const ports = digList(service, 'spec', 'ports').map((p) => ({
      ...(digString(p, 'name') ? { name: digString(p, 'name') } : {}),
      port: targetPort(p, pod),
      protocol: digString(p, 'protocol') ?? 'TCP',
    }));
    const key = JSON.stringify(ports);
    const group = groups.get(key) ?? { ports, ready: [], notReady: [] };
    const address = {
      ip: digString(pod, 'status', 'podIP'),
      nodeName: digString(pod, 'spec', 'nodeName'),
      targetRef: targetRef(pod),
    };
    (isReady(pod) ? group.ready : group.notReady).push(address);
    groups.set(key, group);
  }
  return [...groups.values()].map((g) => ({
    ...(g.ready.length > 0 ? { addresses: g.ready } : {}),
    ...(g.notReady.length > 0 ? { notReadyAddresses: g.notReady } : {}),
    ports: g.ports,
  }));
}

function sliceOf(service: ApiObject, pods: readonly ApiObject[]): object {
  const first = pods[0];
  const ports = digList(service, 'spec', 'ports').map((p) => ({
    name: digString(p, 'name') ?? '',
    port: first ? targetPort(p, first) : digNumber(p, 'port'),
    protocol: digString(p, 'protocol') ?? 'TCP',
  }));
  const endpoints = pods.map((pod) => ({
    addresses: [digString(pod, 'status', 'podIP')],
    conditions: { ready: isReady(pod), serving: isReady(pod), terminating: false },
    nodeName: digString(pod, 'spec', 'nodeName'),
    targetRef: targetRef(pod),
  }));
  return { addressType: 'IPv4', endpoints, ports };
}
