import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import {
  type IncrementalLearningJob,
  type JointInferenceService,
  KUBERNETES_LINK,
  LINK_LABEL,
} from '@shoal/api';
import {
  type Clock,
  type KeyPair,
  type Logger,
  type LoopPorts,
  type Random,
  superviseLoop,
  systemClock,
} from '@shoal/core';
import { DatasetReconciler } from '../controllers/dataset/controller.ts';
import { FederatedLearningReconciler } from '../controllers/federated-learning-job/controller.ts';
import { incrementalLearning } from '../controllers/incremental-learning-job/kind.ts';
import { JointInferenceReconciler } from '../controllers/joint-inference-service/controller.ts';
import { lifelongLearning } from '../controllers/lifelong-learning-job/kind.ts';
import { ModelReconciler } from '../controllers/model/controller.ts';
import { PodBlobsReconciler } from '../controllers/pod-blobs.ts';
import { StageJobReconciler } from '../controllers/stage-job/controller.ts';
import type { EdgePresence } from '../controllers/stage-job/ports.ts';
import {
  edgeAuthority,
  fleetKey,
  issueManagerCertificate,
  knowledgeBaseKey,
  samplesKey,
} from '../edge-link/authority.ts';
import { BlobStore } from '../edge-link/blobs.ts';
import { CloudStore } from '../edge-link/cloud-store.ts';
import { Feed } from '../edge-link/feed.ts';
import { FigureHistory } from '../edge-link/figure-history.ts';
import { FleetServer } from '../edge-link/fleet-server.ts';
import { LinkHub } from '../edge-link/hub.ts';
import { KubeLink } from '../edge-link/kube-link.ts';
import { LogWriter } from '../edge-link/log-writer.ts';
import { NodeRegistry } from '../edge-link/node-registry.ts';
import { Records } from '../edge-link/records.ts';
import { RelayHub } from '../edge-link/relay-hub.ts';
import { EdgeLinkServer } from '../edge-link/server.ts';
import { clusterServices } from '../edge-link/services.ts';
import {
  DATASET,
  DEPLOYMENT,
  FEDERATED_LEARNING,
  HPA,
  INCREMENTAL_LEARNING,
  JOINT_INFERENCE,
  type KindRef,
  type KubeApi,
  type KubeObject,
  LIFELONG_LEARNING,
  MODEL,
  NODE,
  NODE_OBJECT,
  NODE_RECORD,
  POD,
  SERVICE,
} from '../kube/kube-api.ts';
import { ControllerRunner, type Reconciler } from '../reconcile/controller.ts';
import { ObjectCache } from '../reconcile/object-cache.ts';
import { SampleServer } from '../samples/sample-server.ts';
import { SampleStore } from '../samples/sample-store.ts';
import type { Config } from './config.ts';
import { serveHttp } from './http.ts';
import { figuresOf, type JobFigures, Metrics } from './metrics.ts';

export interface OperatorPorts {
  readonly api: KubeApi;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

export interface Operator {
  /** Port of EdgeLink. */
  readonly edgeLinkPort: number;
  readonly isReady: () => boolean;
  close(): Promise<void>;
}

const COMPACT_MS = 3_600_000;
/** Deletes of a node that its feed keeps. */
const KEPT_DELETES = 1_000;

interface Caches {
  readonly datasets: ObjectCache;
  readonly models: ObjectCache;
  readonly services: ObjectCache;
  readonly jointJobs: ObjectCache;
  readonly incrementalJobs: ObjectCache;
  readonly federatedJobs: ObjectCache;
  readonly lifelongJobs: ObjectCache;
  readonly pods: ObjectCache;
  readonly nodes: ObjectCache;
  readonly deployments: ObjectCache;
  readonly autoscalers: ObjectCache;
}

function openCaches(api: KubeApi): Caches {
  const cache = (kind: KindRef): ObjectCache => new ObjectCache(kind, api);
  return {
    datasets: cache(DATASET),
    models: cache(MODEL),
    services: cache(SERVICE),
    jointJobs: cache(JOINT_INFERENCE),
    incrementalJobs: cache(INCREMENTAL_LEARNING),
    federatedJobs: cache(FEDERATED_LEARNING),
    lifelongJobs: cache(LIFELONG_LEARNING),
    pods: cache(POD),
    nodes: cache(NODE),
    deployments: cache(DEPLOYMENT),
    autoscalers: cache(HPA),
  };
}

function reconcilers(
  config: Config,
  caches: Caches,
  ports: OperatorPorts & {
    feed: Feed;
    records: Records;
    blobs: BlobStore;
    samples: SampleStore;
    presence: EdgePresence;
    authority: string;
  },
): Reconciler[] {
  const shared = {
    ...ports,
    localControllerServer: config.SHOAL_GM_LC_SERVER,
    initializerImage: config.SHOAL_GM_INITIALIZER_IMAGE,
  };
  const knowledgeBase = {
    server: config.SHOAL_GM_KB_SERVER,
    key: knowledgeBaseKey(config.SHOAL_GM_DATA_DIR, config.SHOAL_GM_KB_KEY_FILE),
    authority: ports.authority,
  };
  const sampleService = {
    server: config.SHOAL_GM_SAMPLES_SERVER,
    key: samplesKey(config.SHOAL_GM_DATA_DIR),
    authority: ports.authority,
  };
  return [
    new DatasetReconciler({ ...ports, ...caches }),
    new ModelReconciler({ ...ports, ...caches }),
    new PodBlobsReconciler({ ...ports, ...caches }),
    new JointInferenceReconciler({ ...shared, ...caches, jobs: caches.jointJobs }),
    new StageJobReconciler(incrementalLearning({ ...shared, ...caches, sampleService }), {
      ...shared,
      ...caches,
      jobs: caches.incrementalJobs,
    }),
    new FederatedLearningReconciler({ ...shared, ...caches, jobs: caches.federatedJobs }),
    new StageJobReconciler(lifelongLearning({ ...shared, ...caches, knowledgeBase }), {
      ...shared,
      ...caches,
      jobs: caches.lifelongJobs,
    }),
  ];
}

interface Edges {
  readonly authority: KeyPair;
  readonly store: CloudStore;
  readonly feed: Feed;
  readonly records: Records;
  readonly hub: LinkHub;
  readonly blobs: BlobStore;
  readonly samples: SampleStore;
  readonly link: EdgeLinkServer;
  readonly sampleServer: SampleServer;
  readonly fleet: FleetServer;
}

/** The store behind EdgeLink and the sessions over it. */
function openHub(
  dataDir: string,
  { clock, logger }: Pick<OperatorPorts, 'clock' | 'logger'>,
): Pick<Edges, 'store' | 'feed' | 'records' | 'hub'> {
  const store = new CloudStore(join(dataDir, 'feed.db'));
  const feed = new Feed(store);
  const records = new Records(store);
  const soon = (body: () => void): void => void setImmediate(body);
  const hub = new LinkHub({ store, feed, records, clock, logger, soon });
  return { store, feed, records, hub };
}

/** What faces the edges and those who label; nothing listens yet. */
async function openEdges(
  config: Config,
  {
    api,
    clock,
    logger,
    metrics,
  }: Pick<OperatorPorts, 'api' | 'clock' | 'logger'> & { metrics: Metrics },
): Promise<Edges> {
  const dataDir = config.SHOAL_GM_DATA_DIR;
  const { store, feed, records, hub } = openHub(dataDir, { clock, logger });
  metrics.links(() => hub.status());
  const authority = await edgeAuthority(dataDir, clock.now());
  const tls = await issueManagerCertificate(authority, clock.now());
  const key = fleetKey(dataDir);
  const registry = new NodeRegistry({ store, authority, key, clock, logger });
  const relay = new RelayHub({
    services: clusterServices({ api, feed }),
    invite: (node) => hub.inviteRelay(node),
    logger,
  });
  // Whoever wants to reach a node that went silent invites it anew.
  hub.onSilent((node) => relay.drop(node));
  registry.onRevoke((node, reason) => {
    hub.disconnect(node, reason, { afterMs: 60_000, spreadMs: 60_000 });
    relay.drop(node);
  });
  const blobs = new BlobStore(join(dataDir, 'blobs'));
  const samples = new SampleStore(join(dataDir, 'samples.db'));
  const link = new EdgeLinkServer({
    address: config.SHOAL_GM_EDGE_LINK_ADDRESS,
    tls,
    authority: authority.certificate,
    hub,
    registry,
    relay,
    feed,
    blobs,
    samples,
    metrics,
    logger,
  });
  const fleet = new FleetServer({
    address: config.SHOAL_GM_FLEET_ADDRESS,
    tls,
    key,
    registry,
    hub,
    relay,
    logger,
  });
  const sampleServer = new SampleServer({
    address: config.SHOAL_GM_SAMPLES_ADDRESS,
    tls,
    key: samplesKey(dataDir),
    samples,
    blobs,
    logger,
  });
  return { authority, store, feed, records, hub, blobs, samples, link, sampleServer, fleet };
}

/** Links through the API server, and what they follow there. */
function openKubeLink(
  { store, feed, records }: Pick<Edges, 'store' | 'feed' | 'records'>,
  { nodes }: Pick<Caches, 'nodes'>,
  { api, logger }: Pick<OperatorPorts, 'api' | 'logger'>,
): { reconciler: Reconciler; caches: ObjectCache[] } {
  const nodeObjects = new ObjectCache(NODE_OBJECT, api);
  const nodeRecords = new ObjectCache(NODE_RECORD, api);
  const ports = { api, store, feed, records, nodes, nodeObjects, nodeRecords, logger };
  return { reconciler: new KubeLink(ports), caches: [nodeObjects, nodeRecords] };
}

/** What serving workers say of themselves, out of the status of their jobs. */
function jobFigures({ jointJobs, incrementalJobs }: Caches): JobFigures[] {
  const of = (object: KubeObject, figures: Record<string, number>): JobFigures => {
    const { namespace = '', name } = object.metadata;
    return { kind: object.kind, namespace, name, figures };
  };
  const loops = incrementalJobs.list().map((job) => {
    const { hardExamples, inference } = (job as unknown as IncrementalLearningJob).status ?? {};
    return of(job, figuresOf({ hardExamples, inference }));
  });
  const services = jointJobs.list().map((service) => {
    const { metrics = [] } = (service as unknown as JointInferenceService).status ?? {};
    const numbers = metrics.map((m) => [m.key, Number(m.value)] as const);
    return of(service, Object.fromEntries(numbers.filter(([, v]) => Number.isFinite(v))));
  });
  return [...loops, ...services];
}

/** Starts the global manager: the one place where its parts are put together. */
export async function startOperator(config: Config, ports: OperatorPorts): Promise<Operator> {
  const { api, clock, random, logger } = ports;
  mkdirSync(config.SHOAL_GM_DATA_DIR, { recursive: true });
  const metrics = new Metrics();
  const parts = await openEdges(config, { api, clock, logger, metrics });
  const { authority, store, feed, records, hub, blobs, samples, link, sampleServer, fleet } = parts;
  const caches = openCaches(api);
  metrics.jobs(() => jobFigures(caches));
  const isReady = (): boolean => Object.values<ObjectCache>({ ...caches }).every((c) => c.synced);
  const figures = new FigureHistory(store);
  const http = await serveHttp({
    host: config.SHOAL_GM_HTTP_ADDRESS,
    port: config.SHOAL_GM_HTTP_PORT,
    metrics,
    figures,
    isReady,
  });
  await fleet.listen(); // machines may join before there is anything to tell them
  const stopping = new AbortController();
  const loopPorts: LoopPorts = { clock, random, logger };
  const kubeLink = config.SHOAL_GM_KUBE_LINK ? openKubeLink(parts, caches, ports) : undefined;
  const all = reconcilers(config, caches, {
    ...ports,
    feed,
    records,
    blobs,
    samples,
    presence: presenceOf(hub, caches, clock),
    authority: authority.certificate,
  });
  const runnerOf = (r: Reconciler): ControllerRunner => new ControllerRunner(r, loopPorts, metrics);
  const runners = all.map(runnerOf);
  const kubeRunner = kubeLink && runnerOf(kubeLink.reconciler);
  void new LogWriter({ api, clock, logger, records, figures }).drain();
  feed.onDamage((o) => runners.forEach((runner) => runner.enqueue(`${o.namespace}/${o.name}`)));
  const followed = [...Object.values<ObjectCache>({ ...caches }), ...(kubeLink?.caches ?? [])];
  const loops = followed.map((c) => c.run(loopPorts, stopping.signal));
  loops.push(compactFeeds(feed, loopPorts, stopping.signal));
  const started = startWhenSynced(runners, { isReady, clock, signal: stopping.signal });
  // Edges are let in once the feed says what they should have: an empty one would clear them.
  while (!runners.every((r) => r.started && r.idle)) await clock.sleep(10);
  const edgeLinkPort = await link.listen();
  const followsKube = kubeRunner && runWhenSynced(kubeRunner, kubeLink, stopping.signal);
  forgetGone(parts, caches);
  await sampleServer.listen();
  logger.info('global manager started', { edgeLinkPort });
  return {
    edgeLinkPort,
    isReady,
    close: async () => {
      stopping.abort();
      link.close();
      sampleServer.close();
      fleet.close();
      await Promise.all([started, followsKube, ...loops]);
      await http.close();
      store.close();
      samples.close();
    },
  };
}

/** Forgets samples of jobs that were deleted while nobody looked, and what was said of them. */
function forgetGone(
  { samples, records }: Pick<Edges, 'samples' | 'records'>,
  caches: Caches,
): void {
  for (const { namespace, name } of samples.jobs())
    if (!caches.incrementalJobs.get(namespace, name)) samples.forget(namespace, name, '');
  const jobs = [
    caches.jointJobs,
    caches.incrementalJobs,
    caches.federatedJobs,
    caches.lifelongJobs,
    caches.datasets,
  ];
  for (const work of records.works())
    if (!jobs.some((c) => c.kind.kind === work.kind && c.get(work.namespace, work.name)))
      records.forget(work);
}

/** Deletes that every edge has long heard of are forgotten; one that was away for longer reconciles. */
async function compactFeeds(feed: Feed, ports: LoopPorts, signal: AbortSignal): Promise<void> {
  const compact = async (): Promise<void> => {
    await ports.clock.sleep(COMPACT_MS, signal);
    for (const node of feed.nodes()) {
      feed.compact(node, KEPT_DELETES);
      await ports.clock.sleep(1, signal);
    }
  };
  const backoff = { baseMs: 1_000, capMs: 60_000, signal };
  await superviseLoop('compaction of feeds', compact, ports, backoff);
}

/** Links through the API server wait until the feed is complete, as the others do. */
async function runWhenSynced(
  runner: ControllerRunner,
  { caches }: { readonly caches: readonly ObjectCache[] },
  signal: AbortSignal,
): Promise<void> {
  while (!caches.every((c) => c.synced) && !signal.aborted)
    await systemClock.sleep(20, signal).catch(() => undefined);
  await runner.run(signal);
}

/** Which nodes can be heard: those with a session, and those whose link is the API server this talks to. */
function presenceOf(hub: LinkHub, { nodes }: Pick<Caches, 'nodes'>, clock: Clock): EdgePresence {
  const since = clock.monotonic();
  return {
    connectedForMs: (node) => {
      const isKube = nodes.get('', node)?.metadata.labels?.[LINK_LABEL] === KUBERNETES_LINK;
      return hub.connectedForMs(node) ?? (isKube ? clock.monotonic() - since : undefined);
    },
  };
}

/** Reconcilers decide from the caches, so they wait until every cache is complete. */
async function startWhenSynced(
  runners: readonly ControllerRunner[],
  options: { isReady: () => boolean; clock: Clock; signal: AbortSignal },
): Promise<void> {
  const { isReady, clock, signal } = options;
  while (!isReady() && !signal.aborted) await clock.sleep(20, signal).catch(() => undefined);
  await Promise.all(runners.map((r) => r.run(signal)));
}
