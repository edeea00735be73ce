import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  type Clock,
  createAuthority,
  fromNode,
  issueCertificate,
  type KeyPair,
  type Logger,
  type Random,
  ShoalError,
} from '@shoal/core';
import {
  ControlLoop,
  type Controller,
  type ControllerContext,
  Kinds,
} from './controllers/control-loop.ts';
import { CustomResourceController, serve } from './controllers/custom-resources.ts';
import { DeploymentController } from './controllers/deployment.ts';
import { EndpointsController } from './controllers/endpoints.ts';
import { GarbageCollector } from './controllers/garbage-collector.ts';
import { JobController } from './controllers/job.ts';
import { NamespaceController } from './controllers/namespace.ts';
import { NodeLifecycleController } from './controllers/node-lifecycle.ts';
import { ReplicaSetController } from './controllers/replica-set.ts';
import { Scheduler } from './controllers/scheduler.ts';
import { ServiceProxy } from './controllers/service-proxy.ts';
import type { TokenTable } from './server/authenticate.ts';
import { BUILTIN_RESOURCES, BUILTIN_SCHEMAS } from './server/builtin-resources.ts';
import { HttpFront } from './server/http.ts';
import { LogProxy } from './server/log-proxy.ts';
import { OpenApi } from './server/openapi.ts';
import { ResourceRegistry } from './server/resource-registry.ts';
import type { ServiceSubnets } from './server/service-address.ts';
import { Verbs } from './server/verbs.ts';
import { RevisionedStore } from './store/revisioned-store.ts';

export interface ApiServerOptions {
  /** Folder of the server's own files: the store and the certificate authority. */
  readonly dataDir: string;
  /** Loopback port; 0 picks a free one. */
  readonly port: number;
  readonly tokens: TokenTable;
  /** Which addresses services get; default all of 127.96.0.0/16. */
  readonly serviceSubnets?: ServiceSubnets;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

export interface ApiServer {
  /** `https://127.0.0.1:port` */
  readonly url: string;
  readonly authority: string;
  close(): Promise<void>;
}

const YEAR_MS = 365 * 24 * 3600 * 1000;

/** The cluster's certificate authority: made once, then read. */
export async function clusterAuthority(dataDir: string, nowMs: number): Promise<KeyPair> {
  const file = join(dataDir, 'ca.json');
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as KeyPair;
  } catch (error) {
    if (fromNode(error, '').code !== 'not_found') {
      throw new ShoalError(
        'data_corrupt',
        `${file} cannot be read; remove ${dataDir} to start a new cluster`,
        { cause: error },
      );
    }
  }
  const authority = await createAuthority('shoal embedded cluster', {
    nowMs,
    validForMs: 10 * YEAR_MS,
  });
  mkdirSync(dataDir, { recursive: true });
  writeFileSync(file, JSON.stringify(authority), { mode: 0o600, flag: 'wx' });
  return authority;
}

function controllersOf(
  context: ControllerContext,
  kinds: Kinds,
  proxy: ServiceProxy,
): Controller[] {
  return [
    new CustomResourceController(context, kinds),
    new NamespaceController(context, kinds),
    new Scheduler(context, kinds),
    new DeploymentController(context, kinds),
    new ReplicaSetController(context, kinds),
    new JobController(context, kinds),
    new GarbageCollector(context),
    new EndpointsController(context, kinds),
    new NodeLifecycleController(context, kinds),
    proxy,
  ];
}

function listen(front: HttpFront, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    front.server.once('error', (error) =>
      reject(fromNode(error, `the API server cannot listen on 127.0.0.1:${port}`)),
    );
    front.server.listen(port, '127.0.0.1', () => {
      const address = front.server.address();
      resolve(typeof address === 'object' && address ? address.port : port);
    });
  });
}

/** Starts the embedded API server with its controllers; the caller closes it. */
export async function startApiServer(options: ApiServerOptions): Promise<ApiServer> {
  const { clock, random, logger, tokens } = options;
  const authority = await clusterAuthority(options.dataDir, clock.now());
  const tls = await issueCertificate(authority, {
    commonName: 'kube-apiserver',
    dnsNames: ['localhost', 'kubernetes', 'kubernetes.default'],
    ipAddresses: ['127.0.0.1'],
    usages: ['server', 'client'],
    nowMs: clock.now(),
    validForMs: YEAR_MS,
  });
  const store = new RevisionedStore(join(options.dataDir, 'cluster.db'));
  const registry = new ResourceRegistry(BUILTIN_RESOURCES, BUILTIN_SCHEMAS);
  const verbs = new Verbs(store, registry, clock, options.serviceSubnets);
  const context: ControllerContext = { verbs, registry, clock, random, logger };
  const kinds = new Kinds(context);
  for (const crd of kinds.list('customresourcedefinitions')) serve(context, crd);
  await new NamespaceController(context, kinds).ensureDefaults();
  const front = new HttpFront({
    verbs,
    registry,
    tls,
    tokens,
    logger,
    authority: authority.certificate,
    isReady: () => true,
    openApi: new OpenApi(registry),
    logs: new LogProxy(verbs, registry, tls, authority.certificate),
  });
  const proxy = new ServiceProxy(context, kinds);
  const loops = controllersOf(context, kinds, proxy).map((c) => new ControlLoop(c, context));
  for (const loop of loops) loop.start();
  const port = await listen(front, options.port);
  return {
    url: `https://127.0.0.1:${port}`,
    authority: authority.certificate,
    close: async () => {
      for (const loop of loops) loop.stop();
      proxy.close();
      front.server.closeAllConnections();
      await new Promise((resolve) => front.server.close(resolve));
      store.close();
    },
  };
}
