import { randomBytes } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { allCrds } from '@shoal/api';
import { ApiClient, clusterAuthority, renderKubeconfig, serverCertificate } from '@shoal/cluster';
import {
  compileCacheVariable,
  isShoalError,
  issueCertificate,
  type KeyPair,
  LEAN_ALLOCATOR,
  ShoalError,
} from '@shoal/core';
import {
  createJoinToken,
  edgeAuthority,
  fleetKey,
  issueKnowledgeBaseCertificate,
  knowledgeBaseKey,
} from '@shoal/global-manager';
import { type Addresses, freePort, MAX_NODES, takeAddresses } from './addresses.ts';
import type { ClusterState, Layout } from './layout.ts';
import { takeLock } from './lock.ts';
import { grantManagerAccess, MANAGER_USER, writeManagerKubeconfig } from './manager-access.ts';
import { type ProcessSpec, SupervisedProcess } from './supervisor.ts';

export interface EmbeddedOptions {
  readonly layout: Layout;
  /** Edge nodes besides the one cloud node. */
  readonly edges: number;
  /** Global managers: one that leads, and those that stand by. Default 1. */
  readonly managers?: number;
  /** `host:port` through which edges connect instead: a bad network, in experiments. */
  readonly linkThrough?: string;
  /** Told where everything will be, before anything starts. */
  readonly onAddresses?: (state: ClusterState) => void;
  readonly onStep?: (text: string) => void;
  readonly signal?: AbortSignal;
}

const YEAR_MS = 365 * 24 * 3600 * 1000;
const START_TIMEOUT_MS = 40_000;
const KNOWLEDGE_BASE_PORT = 9020;
const SAMPLES_PORT = 9010;
const FLEET_PORT = 9001;
const EDGE_LINK_PORT = 9000;
const TOKEN_MS = 3_600_000;
/** An edge machine has little memory, and its controller little to do. */
const SMALL_HEAP: readonly string[] = ['--max-semi-space-size=1', '--optimize-for-size'];
/** The project's root: what stands for the working directory of our images. */
const PROJECT = join(import.meta.dirname, '../../..');
const IMAGES = ['shoal/workers', 'shoal/examples'].map((image) => ({
  image,
  workingDir: PROJECT,
  path: [join(PROJECT, 'node_modules/.bin')],
  environment: compileCacheVariable(),
}));

function entryOf(specifier: string, file: string): string {
  return join(dirname(fileURLToPath(import.meta.resolve(specifier))), file);
}

function processEntry(file: string): string {
  return join(import.meta.dirname, '../process', file);
}

async function until(
  check: () => Promise<boolean>,
  what: string,
  signal?: AbortSignal,
): Promise<void> {
  const deadline = Date.now() + START_TIMEOUT_MS;
  for (;;) {
    signal?.throwIfAborted();
    if (await check().catch(() => false)) return;
    if (Date.now() > deadline)
      throw new ShoalError(
        'deadline_exceeded',
        `${what} did not come up within ${START_TIMEOUT_MS / 1000} s`,
      );
    await new Promise((resolve) => setTimeout(resolve, 40));
  }
}

async function answers(url: string): Promise<boolean> {
  const response = await fetch(url, { signal: AbortSignal.timeout(2_000) });
  await response.body?.cancel();
  return response.ok;
}

/** One cloud node and some edge nodes on this machine, with everything that runs on them. */
export class EmbeddedCluster {
  readonly state: ClusterState;
  readonly #layout: Layout;
  readonly #linkThrough: string | undefined;
  readonly #addresses: Addresses;
  readonly #release: () => void;
  readonly #processes: SupervisedProcess[] = [];
  readonly #managerToken = randomBytes(24).toString('base64url');
  #failure: ShoalError | undefined;

  private constructor(
    options: EmbeddedOptions,
    parts: { addresses: Addresses; release: () => void; state: ClusterState },
  ) {
    this.#layout = options.layout;
    this.#linkThrough = options.linkThrough;
    this.#addresses = parts.addresses;
    this.#release = parts.release;
    this.state = parts.state;
  }

  /**
   * Starts a cluster and waits until every part of it answers.
   *
   * @throws ShoalError when one is already running in this folder, or a part does not come up;
   *   whatever was started is ended again.
   */
  static async start(options: EmbeddedOptions): Promise<EmbeddedCluster> {
    const { layout, edges } = options;
    if (!Number.isInteger(edges) || edges < 1 || edges >= MAX_NODES) {
      throw new ShoalError(
        'invalid_argument',
        `--edges must be a whole number from 1 to ${MAX_NODES - 1}, got ${edges}`,
      );
    }
    mkdirSync(layout.root, { recursive: true });
    const release = takeLock(layout);
    const addresses = await takeAddresses().catch((error: unknown) => {
      release();
      throw error;
    });
    const authority = await clusterAuthority(layout.serverDir, Date.now());
    // Made here, so that the server process never loads what issues certificates.
    await serverCertificate(layout.serverDir, Date.now());
    const managers = (port: number): string =>
      Array.from(
        { length: options.managers ?? 1 },
        (_, i) => `${addresses.managers(i)}:${port}`,
      ).join(',');
    const state: ClusterState = {
      pid: process.pid,
      server: `https://127.0.0.1:${await freePort('127.0.0.1')}`,
      authority: authority.certificate,
      token: randomBytes(24).toString('base64url'),
      managerUrl: `http://${addresses.manager}:9080`,
      knowledgeBase: `${addresses.manager}:${KNOWLEDGE_BASE_PORT}`,
      samples: managers(SAMPLES_PORT),
      fleet: managers(FLEET_PORT),
      edgeLink: managers(EDGE_LINK_PORT),
      cloudNode: 'cloud-1',
      edgeNodes: Array.from({ length: edges }, (_, i) => `edge-${i + 1}`),
      startedAt: new Date().toISOString(),
    };
    options.onAddresses?.(state);
    const cluster = new EmbeddedCluster(options, { addresses, release, state });
    try {
      await cluster.#startAll(authority, options);
      return cluster;
    } catch (error) {
      await cluster.stop();
      throw error;
    }
  }

  /** A part that cannot be kept running, if there is one. */
  get failure(): ShoalError | undefined {
    return this.#failure;
  }

  /** Process ids by name, for tests and `shoal status`. */
  get processes(): { name: string; pid: number | undefined; restarts: number }[] {
    return this.#processes.map((p) => ({ name: p.spec.name, pid: p.pid, restarts: p.restarts }));
  }

  client(): ApiClient {
    return new ApiClient({
      server: this.state.server,
      authority: this.state.authority,
      token: this.state.token,
    });
  }

  #spawn(spec: ProcessSpec): void {
    const child = new SupervisedProcess(spec, this.#layout.logDir, (error) => {
      this.#failure = error;
    });
    this.#processes.push(child);
    child.start();
  }

  async #startAll(authority: KeyPair, options: EmbeddedOptions): Promise<void> {
    const step = options.onStep ?? ((): void => undefined);
    const { state } = this;
    step('starting the API server');
    this.#spawnApiServer();
    const client = this.client();
    await this.#until(
      async () => await client.request('GET', '/version').then(() => true),
      'the API server',
      options,
    );
    await this.#until(
      async () => await this.#installDefinitions(client),
      'the sedna.io kinds',
      options,
    );
    writeFileSync(this.#layout.kubeconfig, renderKubeconfig({ ...state, user: 'admin' }), {
      mode: 0o600,
    });
    await grantManagerAccess(client);
    writeManagerKubeconfig(this.#layout.managerKubeconfig, state, this.#managerToken);
    step('starting the global manager, nodes and local controllers');
    await this.#spawnManager();
    await this.#spawnKnowledgeBase();
    for (const [index, node] of [state.cloudNode, ...state.edgeNodes].entries())
      await this.#spawnNode(authority, node, index);
    await this.#until(
      async () => await this.#leaderAnswers(options.managers ?? 1),
      'the global manager',
      options,
    );
    const nodes = [state.cloudNode, ...state.edgeNodes];
    for (const [index, node] of nodes.entries()) {
      await this.#until(
        async () => await this.#nodeIsUp(client, node, index),
        `node ${node}`,
        options,
      );
    }
    client.close();
    writeFileSync(this.#layout.stateFile, JSON.stringify(state, null, 2), { mode: 0o600 });
  }

  async #until(
    check: () => Promise<boolean>,
    what: string,
    options: EmbeddedOptions,
  ): Promise<void> {
    await until(
      async () => {
        if (this.#failure) return true;
        return await check();
      },
      what,
      options.signal,
    );
    if (this.#failure) throw this.#failure;
  }

  /** One of the managers leads and is ready. */
  async #leaderAnswers(managers: number): Promise<boolean> {
    const urls = Array.from(
      { length: managers },
      (_, i) => `http://${this.#addresses.managers(i)}:9080`,
    );
    const ready = await Promise.all(urls.map((url) => answers(`${url}/readyz`).catch(() => false)));
    return ready.includes(true);
  }

  async #nodeIsUp(client: ApiClient, node: string, index: number): Promise<boolean> {
    await client.request(
      'GET',
      `/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/${node}`,
    );
    const response = await fetch(`http://${this.#addresses.node(index)}:9100/healthz`, {
      signal: AbortSignal.timeout(2_000),
    });
    return ((await response.json()) as { connected: boolean }).connected;
  }

  #spawnApiServer(): void {
    const tokens = [
      { token: this.state.token, user: { name: 'admin', groups: ['system:masters'] } },
      { token: this.#managerToken, user: MANAGER_USER },
    ];
    const options = {
      dataDir: this.#layout.serverDir,
      port: Number(new URL(this.state.server).port),
      tokens,
      serviceSubnets: this.#addresses.serviceSubnets,
    };
    this.#spawn({
      name: 'api-server',
      entry: processEntry('api-server.ts'),
      environment: { SHOAL_PROCESS_OPTIONS: JSON.stringify(options) },
    });
  }

  async #installDefinitions(client: ApiClient): Promise<boolean> {
    const base = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';
    for (const crd of allCrds()) {
      try {
        await client.request('POST', base, crd);
      } catch (error) {
        if (!isShoalError(error) || error.code !== 'already_exists') throw error;
        const path = `${base}/${crd.metadata.name}`;
        await client.request(
          'PATCH',
          path,
          { spec: crd.spec },
          { contentType: 'application/merge-patch+json' },
        );
      }
    }
    return true;
  }

  async #spawnManager(): Promise<void> {
    await edgeAuthority(this.#layout.managerDir, Date.now());
    const links = this.state.edgeLink.split(',');
    for (const [i, edgeLink] of links.entries()) {
      const host = this.#addresses.managers(i);
      this.#spawn({
        name: i === 0 ? 'global-manager' : `global-manager-${i + 1}`,
        entry: entryOf('@shoal/global-manager', 'operator/main.ts'),
        environment: {
          ...LEAN_ALLOCATOR,
          SHOAL_GM_KUBECONFIG: this.#layout.managerKubeconfig,
          SHOAL_GM_DATA_DIR: this.#layout.managerDir,
          SHOAL_GM_EDGE_LINK_ADDRESS: edgeLink,
          SHOAL_GM_FLEET_ADDRESS: `${host}:${FLEET_PORT}`,
          SHOAL_GM_HTTP_ADDRESS: host,
          SHOAL_GM_HTTP_PORT: '9080',
          SHOAL_GM_KB_SERVER: this.state.knowledgeBase,
          SHOAL_GM_SAMPLES_ADDRESS: `${host}:${SAMPLES_PORT}`,
          SHOAL_GM_SAMPLES_SERVER: this.state.samples,
          SHOAL_GM_IDENTITY: `manager-${i + 1}`,
          ...(links.length > 1 && { SHOAL_GM_LEASE: 'kube-system/shoal-global-manager' }),
        },
      });
    }
  }

  async #spawnKnowledgeBase(): Promise<void> {
    const { knowledgeBaseDir: dir, managerDir } = this.#layout;
    mkdirSync(dir, { recursive: true });
    const authority = await edgeAuthority(managerDir, Date.now());
    const tlsFile = join(dir, 'tls.json');
    const tls = await issueKnowledgeBaseCertificate(authority, Date.now());
    writeFileSync(tlsFile, JSON.stringify(tls), { mode: 0o600 });
    knowledgeBaseKey(managerDir);
    this.#spawn({
      name: 'knowledge-base',
      entry: processEntry('knowledge-base.ts'),
      environment: {
        KB_DATA_DIR: dir,
        KB_BIND_HOST: this.#addresses.manager,
        KB_BIND_PORT: String(KNOWLEDGE_BASE_PORT),
        KB_KEY_FILE: join(managerDir, 'knowledge-base.key'),
        KB_TLS_FILE: tlsFile,
      },
    });
  }

  async #spawnNode(authority: KeyPair, node: string, index: number): Promise<void> {
    const ip = this.#addresses.node(index);
    const role = index === 0 ? 'cloud' : 'edge';
    const tls = await issueCertificate(authority, {
      commonName: `system:node:${node}`,
      organization: 'system:nodes',
      ipAddresses: [ip],
      usages: ['server', 'client'],
      nowMs: Date.now(),
      validForMs: YEAR_MS,
    });
    mkdirSync(this.#layout.rootfs(node), { recursive: true });
    const agent = {
      identity: { name: node, ip, labels: { [`node-role.kubernetes.io/${role}`]: '' } },
      dataDir: this.#layout.nodeDir(node),
      podSubnet: this.#addresses.podSubnet(index),
      images: IMAGES,
      authority: authority.certificate,
      server: this.state.server,
      tls,
    };
    this.#spawn({
      name: `node-agent-${node}`,
      entry: processEntry('node-agent.ts'),
      environment: { SHOAL_PROCESS_OPTIONS: JSON.stringify(agent) },
    });
    await this.#spawnController(node, ip);
  }

  async #spawnController(node: string, ip: string): Promise<void> {
    const dataDir = this.#layout.controllerDir(node);
    mkdirSync(dataDir, { recursive: true });
    const { managerDir } = this.#layout;
    const { certificate: authority } = await edgeAuthority(managerDir, Date.now());
    const tokenFile = join(dataDir, 'join-token');
    const token = createJoinToken(fleetKey(managerDir), {
      node,
      authority,
      nowMs: Date.now(),
      validForMs: TOKEN_MS,
      server: this.state.fleet,
      edgeLink: this.state.edgeLink,
    });
    writeFileSync(tokenFile, token, { mode: 0o600 });
    this.#spawn({
      name: `local-controller-${node}`,
      entry: entryOf('@shoal/local-controller', 'operator/main.ts'),
      nodeOptions: SMALL_HEAP,
      environment: {
        ...LEAN_ALLOCATOR,
        GM_ADDRESS: this.#linkThrough ?? this.state.edgeLink,
        NODENAME: node,
        ROOTFS_MOUNT_DIR: this.#layout.rootfs(node),
        BIND_ADDRESS: ip,
        BIND_PORT: '9100',
        SHOAL_LC_DATA_DIR: dataDir,
        SHOAL_LC_TLS_FILE: join(dataDir, 'identity.json'),
        SHOAL_LC_TOKEN_FILE: tokenFile,
        SHOAL_LC_POD_LOG_DIR: join(this.#layout.nodeDir(node), 'logs'),
        SHOAL_LC_POLL_MS: '500',
        SHOAL_LC_FIGURES_SECONDS: '2',
      },
    });
  }

  /** Ends everything, workers first, and gives the folder back. */
  async stop(): Promise<void> {
    const agents = this.#processes.filter((p) => p.spec.name.startsWith('node-agent'));
    await Promise.all(agents.map((p) => p.stop()));
    const server = this.#processes.filter((p) => p.spec.name === 'api-server');
    await Promise.all(
      this.#processes
        .filter((p) => !agents.includes(p) && !server.includes(p))
        .map((p) => p.stop()),
    );
    await Promise.all(server.map((p) => p.stop()));
    rmSync(this.#layout.stateFile, { force: true });
    this.#addresses.release();
    this.#release();
  }
}
