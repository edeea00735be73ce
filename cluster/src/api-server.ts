import { join } from 'node:path';
import { type Clock, fromNode, type Logger, type Random } from '@shoal/core';
import { clusterAuthority, serverCertificate } from './authority.ts';
import {
  ControlLoop,
  type Controller,
  type ControllerContext,
  Kinds,
} from './controllers/control-loop.ts';
import { CustomResourceController, serve } from './controllers/custom-resources.ts';
import { ensureDefaultRoles } from './controllers/default-roles.ts';
import { DeploymentController } from './controllers/deployment.ts';
import { EndpointsController } from './controllers/endpoints.ts';
import { GarbageCollector } from './controllers/garbage-collector.ts';
import { HorizontalPodAutoscalerController } from './controllers/horizontal-pod-autoscaler.ts';
import { JobController } from './controllers/job.ts';
import { NamespaceController } from './controllers/namespace.ts';
import { NodeLifecycleController } from './controllers/node-lifecycle.ts';
import { ReplicaSetController } from './controllers/replica-set.ts';
import { Scheduler } from './controllers/scheduler.ts';
import { ServiceProxy } from './controllers/service-proxy.ts';
import { Access } from './server/access.ts';
import { AgentLocator } from './server/agent-locator.ts';
import type { TokenTable } from './server/authenticate.ts';
import { Authorizer } from './server/authorize.ts';
import { BUILTIN_RESOURCES, BUILTIN_SCHEMAS } from './server/builtin-resources.ts';
import { HttpFront } from './server/http.ts';
import { LogProxy } from './server/log-proxy.ts';
import { METRICS_RESOURCES, Metrics } from './server/metrics.ts';
import { OpenApi } from './server/openapi.ts';
import { RequestLog } from './server/request-log.ts';
import { ResourceRegistry } from './server/resource-registry.ts';
import { REVIEW_RESOURCES } from './server/reviews.ts';
import { ServiceAccountTokens } from './server/service-account-tokens.ts';
import type { ServiceSubnets } from './server/service-address.ts';
import { StreamProxy } from './server/stream-proxy.ts';
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
  /** How many changes are kept for watches that begin in the past; default 20,000. */
  readonly history?: number;
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

function controllersOf(
  context: ControllerContext,
  kinds: Kinds,
  parts: { readonly proxy: ServiceProxy; readonly metrics: Metrics },
): Controller[] {
  const { proxy, metrics } = parts;
  return [
    new CustomResourceController(context, kinds),
    new NamespaceController(context, kinds),
    new Scheduler(context, kinds),
    new DeploymentController(context, kinds),
    new ReplicaSetController(context, kinds),
    new JobController(context, kinds),
    new HorizontalPodAutoscalerController(context, kinds, async () => await metrics.usage()),
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
  const tls = await serverCertificate(options.dataDir, clock.now());
  const store = new RevisionedStore(join(options.dataDir, 'cluster.db'), options.history);
  const registry = new ResourceRegistry(BUILTIN_RESOURCES, BUILTIN_SCHEMAS, [
    ...METRICS_RESOURCES,
    ...REVIEW_RESOURCES,
  ]);
  const verbs = new Verbs(store, registry, clock, options.serviceSubnets);
  const context: ControllerContext = { verbs, registry, clock, random, logger };
  const kinds = new Kinds(context);
  for (const crd of kinds.list('customresourcedefinitions')) serve(context, crd);
  await new NamespaceController(context, kinds).ensureDefaults();
  await ensureDefaultRoles(kinds);
  const accounts = new ServiceAccountTokens(options.dataDir, { verbs, registry, clock });
  const access = new Access({
    tokens,
    accounts,
    authorizer: new Authorizer(verbs, registry),
    log: new RequestLog(join(options.dataDir, 'requests.jsonl'), logger),
  });
  const locator = new AgentLocator(verbs, registry, {
    ...tls,
    authority: authority.certificate,
  });
  const metrics = new Metrics(locator);
  const front = new HttpFront({
    verbs,
    registry,
    tls,
    access,
    accounts,
    logger,
    authority: authority.certificate,
    isReady: () => true,
    openApi: new OpenApi(registry),
    logs: new LogProxy(locator),
    metrics,
    streams: new StreamProxy(locator),
  });
  const proxy = new ServiceProxy(context, kinds);
  const loops = controllersOf(context, kinds, { proxy, metrics }).map(
    (c) => new ControlLoop(c, context),
  );
  for (const loop of loops) loop.start();
  const port = await listen(front, options.port);
  return {
    url: `https://127.0.0.1:${port}`,
    authority: authority.certificate,
    close: async () => {
      for (const loop of loops) loop.stop();
      proxy.close();
      await front.close();
      store.close();
    },
  };
}
