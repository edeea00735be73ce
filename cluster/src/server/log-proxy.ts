import { request as httpsRequest } from 'node:https';
import type { KeyPair } from '@shoal/core';
import { digList, digNumber, digString } from '../object.ts';
import { type Exchange, refuse } from './exchange.ts';
import type { ResourceRegistry } from './resource-registry.ts';
import type { Verbs } from './verbs.ts';

/** Fetches a container's log from the agent of the node that runs the pod. */
export class LogProxy {
  readonly #verbs: Verbs;
  readonly #registry: ResourceRegistry;
  readonly #tls: KeyPair;
  readonly #authority: string;

  constructor(verbs: Verbs, registry: ResourceRegistry, tls: KeyPair, authority: string) {
    this.#verbs = verbs;
    this.#registry = registry;
    this.#tls = tls;
    this.#authority = authority;
  }

  async serve(exchange: Exchange, namespace: string, name: string): Promise<void> {
    const resource = this.#registry.find('', 'v1', 'pods');
    if (!resource) return;
    const pod = this.#verbs.get({ resource, namespace, name });
    const container = exchange.query.get('container') ?? this.#onlyContainer(pod, name);
    const node = digString(pod, 'spec', 'nodeName');
    if (!node)
      refuse(
        'BadRequest',
        `container "${container}" in pod "${name}" is waiting to start: the pod is not scheduled yet`,
      );
    const { host, port } = this.#agentOf(node);
    const query = new URLSearchParams(exchange.query);
    query.set('container', container);
    await this.#pipe(exchange, { host, port, path: `/logs/${pod.metadata.uid}?${query}`, node });
  }

  #onlyContainer(pod: unknown, name: string): string {
    const names = digList(pod, 'spec', 'containers').map((c) => digString(c, 'name') ?? '');
    if (names.length !== 1) {
      refuse(
        'BadRequest',
        `a container name must be specified for pod ${name}, choose one of: [${names.join(' ')}]`,
      );
    }
    return names[0] ?? '';
  }

  #agentOf(node: string): { host: string; port: number } {
    const resource = this.#registry.find('', 'v1', 'nodes');
    const object = resource ? this.#verbs.get({ resource, namespace: '', name: node }) : undefined;
    const host = digString(digList(object, 'status', 'addresses')[0], 'address');
    const port = digNumber(object, 'status', 'daemonEndpoints', 'kubeletEndpoint', 'Port');
    if (!host || !port) refuse('ServiceUnavailable', `node "${node}" has no agent endpoint yet`);
    return { host, port };
  }

  #pipe(
    exchange: Exchange,
    to: { host: string; port: number; path: string; node: string },
  ): Promise<void> {
    const { response } = exchange;
    return new Promise((resolve) => {
      const fail = (): void => {
        if (response.headersSent) response.end();
        else {
          const message = `the agent of node "${to.node}" cannot be reached at ${to.host}:${to.port}`;
          const body = JSON.stringify({
            kind: 'Status',
            apiVersion: 'v1',
            metadata: {},
            status: 'Failure',
            message,
            reason: 'ServiceUnavailable',
            code: 503,
          });
          response.writeHead(503, { 'Content-Type': 'application/json' }).end(body);
        }
        resolve();
      };
      const upstream = httpsRequest(
        {
          ...to,
          key: this.#tls.privateKey,
          cert: this.#tls.certificate,
          ca: this.#authority,
          servername: '',
        },
        (answer) => {
          response.writeHead(answer.statusCode ?? 502, {
            'Content-Type': answer.headers['content-type'] ?? 'text/plain',
          });
          answer.pipe(response);
          answer.on('end', resolve);
          answer.on('error', fail);
        },
      );
      upstream.on('error', fail);
      response.on('close', () => {
        upstream.destroy();
        resolve();
      });
      upstream.end();
    });
  }
}
