import { request as httpsRequest } from 'node:https';
import { isJsonObject, rfc3339 } from '@shoal/core';
import { type ApiObject, digNumber, digString } from '../object.ts';
import type { Agent, AgentLocator } from './agent-locator.ts';
import { type Exchange, refuse, sendJson } from './exchange.ts';
import type { Resource } from './resource-registry.ts';
import { parseLabelSelector } from './selectors.ts';

const API_VERSION = 'metrics.k8s.io/v1beta1';
const PATH =
  /^\/apis\/metrics\.k8s\.io\/v1beta1\/(?:(nodes)|(?:namespaces\/([^/]+)\/)?(pods))(?:\/([^/]+))?$/;
const TIMEOUT_MS = 3_000;

/** Kinds of the metrics API: served, but not stored. */
export const METRICS_RESOURCES: readonly Resource[] = (
  [
    ['NodeMetrics', 'nodes', false],
    ['PodMetrics', 'pods', true],
  ] as const
).map(([kind, plural, namespaced]) => ({
  group: 'metrics.k8s.io',
  version: 'v1beta1',
  kind,
  plural,
  singular: '',
  shortNames: [],
  categories: [],
  namespaced,
  status: false,
  scale: undefined,
  schema: {},
  columns: [],
  builtin: true,
  verbs: ['get', 'list'],
}));

/** What an agent says of one container of one of its pods. */
interface Reported {
  readonly uid: string;
  readonly container: string;
  readonly cores: number;
  readonly memoryBytes: number;
}

/** What a node and its pods use now. */
export interface NodeUsage {
  readonly node: string;
  readonly windowMs: number;
  readonly containers: readonly Reported[];
}

function amounts(cores: number, memoryBytes: number): object {
  return { cpu: `${Math.round(cores * 1e9)}n`, memory: `${Math.round(memoryBytes / 1024)}Ki` };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** `kubectl top`: asks the agents of the nodes what their pods use, whenever it is asked. */
export class Metrics {
  readonly #locator: AgentLocator;

  constructor(locator: AgentLocator) {
    this.#locator = locator;
  }

  /** @returns False for any other request. */
  async serve(exchange: Exchange): Promise<boolean> {
    const match = PATH.exec(exchange.path);
    if (!match || exchange.method !== 'GET') return false;
    const [, nodes, namespace, , name] = match;
    const labels = exchange.query.get('labelSelector');
    const fits = labels ? parseLabelSelector(labels) : (): boolean => true;
    const found = nodes ? await this.#nodes() : await this.#pods(namespace);
    const items = found.filter((o) => fits(o) && (name === undefined || o.metadata.name === name));
    const kind = nodes ? 'NodeMetrics' : 'PodMetrics';
    if (name === undefined)
      sendJson(exchange, { kind: `${kind}List`, apiVersion: API_VERSION, metadata: {}, items });
    else if (items[0]) sendJson(exchange, items[0]);
    else
      refuse('NotFound', `${kind.toLowerCase()} "${name}" not found: there is no figure of it yet`);
    return true;
  }

  /** What every reachable node uses. */
  async usage(): Promise<NodeUsage[]> {
    const agents = this.#locator.agents();
    const answers = await Promise.allSettled(agents.map(async (a) => await this.#ask(a)));
    return answers.flatMap((a) => (a.status === 'fulfilled' ? [a.value] : []));
  }

  async #nodes(): Promise<ApiObject[]> {
    const usage = await this.usage();
    return usage.map(({ node, windowMs, containers }) => ({
      kind: 'NodeMetrics',
      apiVersion: API_VERSION,
      metadata: { name: node },
      ...this.#times(windowMs),
      usage: amounts(
        sum(containers.map((c) => c.cores)),
        sum(containers.map((c) => c.memoryBytes)),
      ),
    }));
  }

  async #pods(namespace: string | undefined): Promise<ApiObject[]> {
    const usage = await this.usage();
    return this.#locator.pods(namespace).flatMap((pod) => {
      const node = usage.find((u) => u.node === digString(pod, 'spec', 'nodeName'));
      const containers = node?.containers.filter((c) => c.uid === pod.metadata.uid) ?? [];
      if (!node || containers.length === 0) return [];
      const { name, namespace: home = '', labels = {} } = pod.metadata;
      return [
        {
          kind: 'PodMetrics',
          apiVersion: API_VERSION,
          metadata: { name, namespace: home, labels },
          ...this.#times(node.windowMs),
          containers: containers.map((c) => ({
            name: c.container,
            usage: amounts(c.cores, c.memoryBytes),
          })),
        },
      ];
    });
  }

  #times(windowMs: number): { timestamp: string; window: string } {
    return { timestamp: rfc3339(Date.now()), window: `${(windowMs / 1000).toFixed(3)}s` };
  }

  #ask(agent: Agent): Promise<NodeUsage> {
    const { node } = agent;
    return new Promise((resolve, reject) => {
      const call = httpsRequest(
        { ...this.#locator.connection(agent), path: '/stats' },
        (answer) => {
          const chunks: Buffer[] = [];
          answer.on('data', (chunk: Buffer) => chunks.push(chunk));
          answer.on('error', reject);
          answer.on('end', () => resolve(readUsage(node, Buffer.concat(chunks).toString('utf8'))));
        },
      );
      call.setTimeout(TIMEOUT_MS, () => call.destroy(new Error('timeout')));
      call.on('error', reject);
      call.end();
    });
  }
}

function readUsage(node: string, text: string): NodeUsage {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    body = {};
  }
  const containers =
    isJsonObject(body) && Array.isArray(body['containers']) ? body['containers'] : [];
  return {
    node,
    windowMs: digNumber(body, 'windowMs') ?? 0,
    containers: containers.filter(isJsonObject).map((c) => ({
      uid: digString(c, 'uid') ?? '',
      container: digString(c, 'container') ?? '',
      cores: digNumber(c, 'cores') ?? 0,
      memoryBytes: digNumber(c, 'memoryBytes') ?? 0,
    })),
  };
}
