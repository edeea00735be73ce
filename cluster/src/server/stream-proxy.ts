import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { connect } from 'node:tls';
import type { Agent, AgentLocator } from './agent-locator.ts';
import { refuseUpgrade } from './refuse-upgrade.ts';
import { StatusError } from './status-error.ts';

/** Subresources of pods that leave HTTP behind, and what the agent calls them. */
const AGENT_VERBS: Readonly<Record<string, string>> = {
  exec: 'exec',
  attach: 'attach',
  portforward: 'portForward',
};

export function isStream(subresource: string | undefined): boolean {
  return subresource !== undefined && Object.hasOwn(AGENT_VERBS, subresource);
}

/** A request to upgrade, as Node hands it out. */
export interface UpgradeRequest {
  readonly request: IncomingMessage;
  readonly socket: Duplex;
  readonly head: Buffer;
}

const FORWARDED = /^(upgrade|sec-websocket-.*|x-stream-protocol-version)$/;

/**
 * Connects a client of exec, attach or port-forward with the agent of the pod's node: once the
 * request is known to be right, the two byte streams are one, whatever protocol they speak.
 */
export class StreamProxy {
  readonly #locator: AgentLocator;

  constructor(locator: AgentLocator) {
    this.#locator = locator;
  }

  /** @throws StatusError when there is no such pod, container or node. */
  serve(
    upgrade: UpgradeRequest,
    target: { namespace: string; name: string; subresource: string; query: URLSearchParams },
  ): void {
    const { subresource, query } = target;
    const { pod, container, agent } = this.#locator.find(target.namespace, target.name, query);
    if (subresource === 'exec' && query.getAll('command').length === 0)
      throw new StatusError('BadRequest', 'you must specify at least 1 command for the container');
    const asked = new URLSearchParams(query);
    asked.set('container', container);
    const path = `/${AGENT_VERBS[subresource]}/${pod.metadata.uid}?${asked}`;
    this.#join(upgrade, agent, path);
  }

  #join({ request, socket, head }: UpgradeRequest, agent: Agent, path: string): void {
    const { host, port, node } = agent;
    const upstream = connect(this.#locator.connection(agent));
    let joined = false;
    upstream.on('secureConnect', () => {
      joined = true;
      upstream.write(requestText(request, path));
      if (head.length > 0) upstream.write(head);
      upstream.pipe(socket);
      socket.pipe(upstream);
    });
    upstream.on('error', () => {
      if (joined) return socket.destroy();
      const message = `the agent of node "${node}" cannot be reached at ${host}:${port}`;
      return refuseUpgrade(socket, new StatusError('ServiceUnavailable', message));
    });
    upstream.on('close', () => (joined ? socket.end() : undefined));
    socket.on('close', () => upstream.destroy());
    socket.on('error', () => upstream.destroy());
  }
}

function requestText(request: IncomingMessage, path: string): string {
  const { rawHeaders } = request;
  const lines: string[] = [];
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] ?? '';
    if (FORWARDED.test(name.toLowerCase())) lines.push(`${name}: ${rawHeaders[i + 1]}`);
  }
  return `${request.method} ${path} HTTP/1.1\r\nHost: agent\r\nConnection: Upgrade\r\n${lines.join('\r\n')}\r\n\r\n`;
}
