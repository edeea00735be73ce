import type { KeyPair } from '@shoal/core';
import { type ApiObject, digList, digNumber, digString } from '../object.ts';
import { refuse } from './exchange.ts';
import type { ResourceRegistry } from './resource-registry.ts';
import type { Verbs } from './verbs.ts';

/** A container on a node whose agent can be asked about it. */
export interface Located {
  readonly pod: ApiObject;
  readonly container: string;
  readonly agent: Agent;
}

/** Where the agent of a node listens. */
export interface Agent {
  readonly host: string;
  readonly port: number;
  readonly node: string;
}

/** Finds the agents of nodes, and those of the nodes that run a pod. */
export class AgentLocator {
  readonly #verbs: Verbs;
  readonly #registry: ResourceRegistry;
  readonly #identity: { readonly key: string; readonly cert: string; readonly ca: string };

  /** @param tls The API server's own certificate: agents answer nobody else. */
  constructor(
    verbs: Verbs,
    registry: ResourceRegistry,
    tls: KeyPair & { readonly authority: string },
  ) {
    this.#verbs = verbs;
    this.#registry = registry;
    this.#identity = { key: tls.privateKey, cert: tls.certificate, ca: tls.authority };
  }

  /** How to connect to an agent. */
  connection({ host, port }: Agent): {
    host: string;
    port: number;
    key: string;
    cert: string;
    ca: string;
    servername: string;
  } {
    return { host, port, ...this.#identity, servername: '' };
  }

  /** @throws StatusError when there is no such pod, container or node, or it does not run yet. */
  find(namespace: string, name: string, query: URLSearchParams): Located {
    const resource = this.#registry.find('', 'v1', 'pods');
    if (!resource) return refuse('NotFound', 'pods are not served');
    const pod = this.#verbs.get({ resource, namespace, name });
    const container = this.#containerOf(pod, query.get('container'));
    const node = digString(pod, 'spec', 'nodeName');
    if (!node) {
      const message = `container "${container}" in pod "${name}" is waiting to start: the pod is not scheduled yet`;
      return refuse('BadRequest', message);
    }
    return { pod, container, agent: { ...this.#agentOf(node), node } };
  }

  #containerOf(pod: ApiObject, asked: string | null): string {
    const { name } = pod.metadata;
    const named = (list: string): string[] =>
      digList(pod, 'spec', list).map((c) => digString(c, 'name') ?? '');
    const main = named('containers');
    const all = [...main, ...named('initContainers')];
    if (asked !== null && !all.includes(asked))
      refuse('BadRequest', `container ${asked} is not valid for pod ${name}`);
    if (asked === null && main.length !== 1) {
      refuse(
        'BadRequest',
        `a container name must be specified for pod ${name}, choose one of: [${main.join(' ')}]`,
      );
    }
    return asked ?? main[0] ?? '';
  }

  /** The agents of all nodes that have said where theirs is. */
  agents(): Agent[] {
    return this.#list('nodes').flatMap((object) => {
      const endpoint = endpointOf(object);
      return endpoint ? [{ ...endpoint, node: object.metadata.name }] : [];
    });
  }

  pods(namespace: string | undefined): ApiObject[] {
    return this.#list('pods', namespace);
  }

  #list(plural: string, namespace?: string): ApiObject[] {
    const resource = this.#registry.find('', 'v1', plural);
    return resource ? this.#verbs.list(resource, namespace, () => true).items : [];
  }

  #agentOf(node: string): { host: string; port: number } {
    const resource = this.#registry.find('', 'v1', 'nodes');
    const object = resource ? this.#verbs.get({ resource, namespace: '', name: node }) : undefined;
    const endpoint = endpointOf(object);
    if (!endpoint) return refuse('ServiceUnavailable', `node "${node}" has no agent endpoint yet`);
    return endpoint;
  }
}

function endpointOf(node: ApiObject | undefined): { host: string; port: number } | undefined {
  const host = digString(digList(node, 'status', 'addresses')[0], 'address');
  const port = digNumber(node, 'status', 'daemonEndpoints', 'kubeletEndpoint', 'Port');
  return host && port ? { host, port } : undefined;
}
