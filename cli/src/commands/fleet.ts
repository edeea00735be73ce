import { readFileSync } from 'node:fs';
import { join as joinPath } from 'node:path';
import { create } from '@bufbuild/protobuf';
import {
  type AskChunk,
  AskRequestSchema,
  FLEET_METHODS,
  fleetToken,
  LinksRequestSchema,
  MANAGER_NAME,
  type NodeLink,
  RevokeRequestSchema,
} from '@shoal/api';
import { fromNode, isJsonObject, type JsonObject, type KeyPair, ShoalError } from '@shoal/core';
import { createJoinToken } from '@shoal/global-manager';
import { fromStatus, TokenClient } from '@shoal/lib';
import {
  join,
  readLocalControllerSettings,
  startLocalController,
  writeIdentity,
} from '@shoal/local-controller';
import { layoutOf } from '../embedded/layout.ts';
import { runningState } from '../embedded/lock.ts';
import { styled } from '../terminal/style.ts';
import { renderTable } from '../terminal/table.ts';
import { type GlobalOptions, withCluster } from './context.ts';
import { type ServiceFlags, type ServiceOfCluster, serviceAccess } from './service-access.ts';

export type FleetFlags = ServiceFlags;

const SERVICE: ServiceOfCluster = {
  what: 'fleet service',
  address: (state) => state.fleet,
  keyFile: 'fleet.key',
  token: (key) => fleetToken(key),
};
const CALL_MS = 15_000;
const HOUR_MS = 3_600_000;

async function withFleet<T>(
  flags: FleetFlags,
  body: (client: TokenClient) => Promise<T>,
): Promise<T> {
  const client = new TokenClient(serviceAccess(flags, SERVICE), MANAGER_NAME);
  try {
    return await body(client);
  } finally {
    client.close();
  }
}

function print(json: boolean | undefined, value: unknown, text: () => string): void {
  process.stdout.write(json ? `${JSON.stringify(value)}\n` : `${text()}\n`);
}

/** A time as people say it: 4s, 12m, 3h, 5d. */
export function span(ms: number): string {
  const units: [number, string][] = [
    [24 * HOUR_MS, 'd'],
    [HOUR_MS, 'h'],
    [60_000, 'm'],
    [1_000, 's'],
  ];
  const unit = units.find(([size]) => ms >= 2 * size) ?? units.find(([size]) => ms >= size);
  return unit ? `${Math.floor(ms / unit[0])}${unit[1]}` : '0s';
}

/** Milliseconds of "30m", "1h", "2d". @throws ShoalError `invalid_argument`. */
export function parseSpan(text: string): number {
  const match = /^(\d+)(s|m|h|d)$/.exec(text);
  const unit = { s: 1_000, m: 60_000, h: HOUR_MS, d: 24 * HOUR_MS }[match?.[2] ?? ''];
  const ms = Number(match?.[1]) * (unit ?? Number.NaN);
  if (!(ms > 0) || ms > 30 * 24 * HOUR_MS)
    throw new ShoalError(
      'invalid_argument',
      `"${text}" is no time a token can live; say 30m, 1h or 2d (30d at most)`,
    );
  return ms;
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw fromNode(error, `reading ${path}`);
  }
}

export function tokenCreateCommand(
  flags: FleetFlags & { node: string; ttl: string; edgeLink?: string },
): void {
  const layout = layoutOf(flags.folder);
  const state = runningState(layout);
  if (!state && flags.key === undefined)
    throw new ShoalError(
      'failed_precondition',
      `no cluster runs in ${flags.folder}; start one with "shoal up", or give --key, --authority and --server of another cloud`,
    );
  const key = readText(flags.key ?? joinPath(layout.managerDir, SERVICE.keyFile)).trim();
  const authority =
    flags.authority === undefined
      ? (JSON.parse(readText(joinPath(layout.managerDir, 'edge-link-ca.json'))) as KeyPair)
          .certificate
      : readText(flags.authority);
  const validForMs = parseSpan(flags.ttl);
  const server = flags.server ?? state?.fleet;
  const edgeLink = flags.edgeLink ?? state?.edgeLink;
  const token = createJoinToken(key, {
    node: flags.node,
    authority,
    nowMs: Date.now(),
    validForMs,
    ...(server !== undefined && { server }),
    ...(edgeLink !== undefined && { edgeLink }),
  });
  print(flags.json, { node: flags.node, token, validForMs }, () => token);
  if (!flags.json && process.stderr.isTTY)
    process.stderr.write(
      `\nOn the machine that becomes ${flags.node}, once and within ${flags.ttl}:\n  shoal join TOKEN --run\n`,
    );
}

export async function joinCommand(
  token: string,
  flags: { server?: string; dataDir: string; run?: boolean; edgeLink?: string },
): Promise<void> {
  const text = token === '-' ? readFileSync(0, 'utf8') : token;
  const { identity, token: said } = await join(text, flags.server);
  const file = joinPath(flags.dataDir, 'identity.json');
  writeIdentity(file, identity);
  const address = flags.edgeLink ?? said.edgeLink;
  process.stdout.write(
    `${styled('green', `This machine is node ${said.node} now`)}: its certificate is in ${file}, good for ${span(identity.validForMs ?? 0)} and renewed by itself.\n`,
  );
  const environment = {
    GM_ADDRESS: address ?? 'HOST:9000',
    NODENAME: said.node,
    SHOAL_LC_DATA_DIR: flags.dataDir,
    SHOAL_LC_TLS_FILE: file,
  };
  if (!flags.run || address === undefined) {
    const lines = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
    process.stdout.write(
      `Its local controller starts with these settings, or with --run:\n  ${lines.join('\n  ')}\n`,
    );
    return;
  }
  const config = readLocalControllerSettings({
    BIND_ADDRESS: '127.0.0.1',
    ...process.env,
    ...environment,
  });
  const controller = await startLocalController(config);
  process.stdout.write(`The local controller runs; Ctrl-C ends it.\n`);
  await new Promise<void>((resolve) => {
    process.once('SIGINT', resolve);
    process.once('SIGTERM', resolve);
  });
  await controller.close();
}

async function linksOf(flags: FleetFlags): Promise<NodeLink[]> {
  return await withFleet(flags, async (client) => {
    const request = create(LinksRequestSchema, {});
    const call = { doing: 'asking for the links', timeoutMs: CALL_MS };
    return (await client.unary(FLEET_METHODS.links, request, call)).nodes;
  });
}

function plain(link: NodeLink): JsonObject {
  const entries = Object.entries(link).filter(([key]) => key !== '$typeName');
  return Object.fromEntries(
    entries.map(([key, value]) => [key, typeof value === 'bigint' ? Number(value) : value]),
  ) as JsonObject;
}

export async function linkStatusCommand(flags: FleetFlags): Promise<void> {
  const links = await linksOf(flags);
  const head = [
    'NODE',
    'CONNECTED',
    'EPOCH',
    'LAG',
    'OUTBOX',
    'OLDEST',
    'DROPPED',
    'REFUSED',
    'LAST ERROR',
  ];
  const rows = links.map((l) => [
    l.node,
    l.connected ? span(Number(l.connectedForMs)) : 'no',
    String(l.epoch),
    String(l.lag),
    String(l.outboxRecords),
    l.outboxRecords > 0n ? span(Number(l.outboxAgeMs)) : '–',
    String(l.outboxDropped),
    String(l.refused),
    l.lastError || '–',
  ]);
  print(flags.json, links.map(plain), () =>
    rows.length === 0 ? 'no node has connected yet' : renderTable([head, ...rows]),
  );
}

interface NodeObject {
  readonly metadata: { readonly name: string };
  readonly spec?: { readonly unschedulable?: boolean };
  readonly status?: { readonly conditions?: readonly { type: string; status: string }[] };
}

function stateOf(node: NodeObject | undefined): string {
  if (!node) return 'not in Kubernetes';
  const ready = node.status?.conditions?.find((c) => c.type === 'Ready')?.status === 'True';
  return `${ready ? 'Ready' : 'NotReady'}${node.spec?.unschedulable ? ', drained' : ''}`;
}

interface LinkColumns {
  readonly connected: boolean;
  readonly connectedForMs: number;
  readonly certificate: string;
  readonly certificateRemainingMs: number;
  readonly version: string;
}

function linkOf(link: NodeLink | undefined): LinkColumns {
  return {
    connected: link?.connected ?? false,
    connectedForMs: Number(link?.connectedForMs ?? 0n),
    certificate: link?.certificate || 'none',
    certificateRemainingMs: Number(link?.certificateRemainingMs ?? 0n),
    version: link?.version ?? '',
  };
}

export async function nodeListCommand(flags: FleetFlags): Promise<void> {
  const links = await linksOf(flags);
  const nodes = await clusterNodes(flags);
  const names = [...new Set([...nodes.map((n) => n.metadata.name), ...links.map((l) => l.node)])];
  const entries = names.map((name) => ({
    name,
    state: stateOf(nodes.find((n) => n.metadata.name === name)),
    ...linkOf(links.find((l) => l.node === name)),
  }));
  print(flags.json, entries, () =>
    renderTable([
      ['NODE', 'STATE', 'LINK', 'CERTIFICATE', 'VERSION'],
      ...entries.map((e) => [
        e.name,
        e.state,
        e.connected ? `for ${span(e.connectedForMs)}` : 'not connected',
        e.certificate === 'valid' ? `for ${span(e.certificateRemainingMs)}` : e.certificate,
        e.version || '–',
      ]),
    ]),
  );
}

/** Nodes as Kubernetes knows them; none when the fleet is looked at from elsewhere. */
async function clusterNodes(flags: FleetFlags): Promise<NodeObject[]> {
  if (!runningState(layoutOf(flags.folder))) return [];
  return await withCluster(flags, async ({ client }) => {
    const { items } = (await client.request('GET', '/api/v1/nodes')) as { items: NodeObject[] };
    return items;
  });
}

export async function nodeRevokeCommand(node: string, flags: FleetFlags): Promise<void> {
  const reply = await withFleet(flags, async (client) => {
    const call = { doing: `revoking node ${node}`, timeoutMs: CALL_MS };
    return await client.unary(FLEET_METHODS.revoke, create(RevokeRequestSchema, { node }), call);
  });
  const { certificates, wasConnected } = reply;
  print(
    flags.json,
    { node, certificates, wasConnected },
    () =>
      `node ${node} is revoked: ${certificates} certificate${certificates === 1 ? '' : 's'} refused from now on${wasConnected ? ', its session was ended' : ''}.\nIt comes back with a new token only: shoal token create --node ${node}`,
  );
}

/** Stops new pods from coming to a node, and sends those away that come back elsewhere. */
export async function nodeDrainCommand(node: string, options: GlobalOptions): Promise<void> {
  await withCluster(options, async ({ client }) => {
    await setUnschedulable(client, node, true);
    const selector = encodeURIComponent(`spec.nodeName=${node}`);
    const { items } = (await client.request('GET', `/api/v1/pods?fieldSelector=${selector}`)) as {
      items: JsonObject[];
    };
    for (const pod of items) await removePod(client, pod);
    process.stdout.write(
      `node ${node} takes no new pods; "shoal node uncordon ${node}" lets them come again\n`,
    );
  });
}

type Client = Parameters<Parameters<typeof withCluster>[1]>[0]['client'];

async function setUnschedulable(
  client: Client,
  node: string,
  unschedulable: boolean,
): Promise<void> {
  await client.request(
    'PATCH',
    `/api/v1/nodes/${encodeURIComponent(node)}`,
    { spec: { unschedulable } },
    { contentType: 'application/merge-patch+json' },
  );
}

async function removePod(client: Client, pod: JsonObject): Promise<void> {
  const metadata = isJsonObject(pod['metadata']) ? pod['metadata'] : {};
  const { name, namespace, ownerReferences } = metadata as {
    name: string;
    namespace: string;
    ownerReferences?: unknown[];
  };
  const phase = isJsonObject(pod['status']) ? pod['status']['phase'] : undefined;
  if (phase === 'Succeeded' || phase === 'Failed') return;
  if (!ownerReferences?.length) {
    process.stdout.write(`pod ${namespace}/${name} stays: nothing would start it elsewhere\n`);
    return;
  }
  await client.request('DELETE', `/api/v1/namespaces/${namespace}/pods/${name}`);
  process.stdout.write(`pod ${namespace}/${name} sent away\n`);
}

export async function nodeUncordonCommand(node: string, options: GlobalOptions): Promise<void> {
  await withCluster(options, async ({ client }) => {
    await setUnschedulable(client, node, false);
  });
  process.stdout.write(`node ${node} takes pods again\n`);
}

/** Prints what a node’s local controller answers, over the node’s own connection to the cloud. */
export async function askNode(node: string, path: string, flags: FleetFlags): Promise<void> {
  await withFleet(flags, async ({ client, metadata }) => {
    const { requestSerialize, responseDeserialize, path: method } = FLEET_METHODS.ask;
    const request = create(AskRequestSchema, { node, path });
    const call = client.makeServerStreamRequest(
      method,
      requestSerialize,
      responseDeserialize,
      request,
      metadata,
    );
    try {
      for await (const chunk of call as AsyncIterable<AskChunk>) process.stdout.write(chunk.data);
    } catch (error) {
      throw fromStatus(error, `asking node ${node}`);
    }
  });
}

/** `shoal logs POD --link`: through the node’s connection, where nobody reaches the node itself. */
export async function linkLogsCommand(
  pod: string,
  options: GlobalOptions & FleetFlags & { container?: string; follow?: boolean; tail?: string },
): Promise<void> {
  const found = await withCluster(options, async ({ client }) => {
    const path = `/api/v1/namespaces/${options.namespace}/pods/${encodeURIComponent(pod)}`;
    return (await client.request('GET', path)) as {
      metadata: { uid: string };
      spec: { nodeName?: string; containers: { name: string }[] };
    };
  });
  const { nodeName, containers } = found.spec;
  if (nodeName === undefined)
    throw new ShoalError('failed_precondition', `pod ${pod} is on no node yet`);
  const container = options.container ?? containers[0]?.name ?? '';
  const query = new URLSearchParams({
    ...(options.tail !== undefined && { tail: options.tail }),
    ...(options.follow && { follow: 'true' }),
  });
  const where = [options.namespace, pod, found.metadata.uid, container].map(encodeURIComponent);
  await askNode(nodeName, `/shoal/logs/${where.join('/')}?${query}`, options);
}
