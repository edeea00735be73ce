import { request as httpsRequest } from 'node:https';
import type { Agent, AgentLocator } from './agent-locator.ts';
import type { Exchange } from './exchange.ts';

/** Fetches a container's log from the agent of the node that runs the pod. */
export class LogProxy {
  readonly #locator: AgentLocator;

  constructor(locator: AgentLocator) {
    this.#locator = locator;
  }

  async serve(exchange: Exchange, namespace: string, name: string): Promise<void> {
    const { pod, container, agent } = this.#locator.find(namespace, name, exchange.query);
    const query = new URLSearchParams(exchange.query);
    query.set('container', container);
    await this.#pipe(exchange, { ...agent, path: `/logs/${pod.metadata.uid}?${query}` });
  }

  #pipe(exchange: Exchange, to: Agent & { readonly path: string }): Promise<void> {
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
          ...this.#locator.connection(to),
          path: to.path,
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
