import type {
  Container,
  EnvVar,
  KubernetesObject,
  OwnerReference,
  PodSpec,
  PodTemplate,
} from '@shoal/api';
import type { Storage } from './storage.ts';

/** What a worker is, besides the user's template. */
export interface WorkerOptions {
  /** The object it works for. */
  readonly owner: KubernetesObject;
  /** Worker type in the contract's spelling, e.g. `cloud`, `train`, `Eval`. */
  readonly type: string;
  readonly template: PodTemplate;
  readonly env: readonly EnvVar[];
  readonly storage: Storage;
  /** Credentials for the storage initializer, and for workers that write remotely. */
  readonly secretEnv: readonly EnvVar[];
  /** `svc://…` that the worker reaches through its node’s link. */
  readonly services?: readonly string[];
  readonly hostNetwork?: boolean;
  /** Used only where the template says nothing. */
  readonly restartPolicy?: 'Always' | 'OnFailure' | 'Never';
  /** Used only where the template places the pod nowhere. */
  readonly defaultNode?: string | undefined;
  readonly labels?: Readonly<Record<string, string>>;
  readonly initializer: InitializerSettings;
}

/** What fetches remote content before a worker starts. */
export interface InitializerSettings {
  readonly initializerImage: string;
  /** Serves `blob:` content; `$(HOST_IP)` in it is the worker's node. */
  readonly localControllerServer: string;
}

/** Annotation of a pod with the digests of the blobs it fetches, joined by commas. */
export const BLOBS_ANNOTATION = 'shoal.dev/blobs';
/** Services a pod reaches through its node’s link: `svc://<namespace>/<service>:<port>`, with commas. */
export const SERVICES_ANNOTATION = 'shoal.dev/services';

const SUFFIX = 'bcdfghjklmnpqrstvwxz2456789';

/** Five random characters, as Kubernetes appends to generated names. */
export function randomSuffix(): string {
  return Array.from(
    crypto.getRandomValues(new Uint8Array(5)),
    (b) => SUFFIX[b % SUFFIX.length],
  ).join('');
}

/** `<kind>.sedna.io/{name,uid,worker-type}`: how a worker's objects are found. */
export function workerLabels(owner: KubernetesObject, type: string): Record<string, string> {
  const prefix = `${owner.kind.toLowerCase()}.sedna.io`;
  return {
    [`${prefix}/name`]: owner.metadata.name,
    [`${prefix}/uid`]: owner.metadata.uid ?? '',
    [`${prefix}/worker-type`]: type.toLowerCase(),
  };
}

export function ownerReference(owner: KubernetesObject): OwnerReference {
  const { name, uid = '' } = owner.metadata;
  return {
    apiVersion: owner.apiVersion,
    kind: owner.kind,
    name,
    uid,
    controller: true,
    blockOwnerDeletion: true,
  };
}

/** Address of the pod and of its node, before everything that refers to them. */
const ADDRESSES: readonly EnvVar[] = [
  { name: 'POD_IP', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } },
  { name: 'HOST_IP', valueFrom: { fieldRef: { fieldPath: 'status.hostIP' } } },
];

function withEnvironment(
  container: Container,
  added: readonly EnvVar[],
  storage: Storage,
): Container {
  const known = new Set((container.env ?? []).map((e) => e.name));
  const addresses = ADDRESSES.filter((e) => !known.has(e.name));
  return {
    ...container,
    env: [...addresses, ...(container.env ?? []), ...added],
    volumeMounts: [...(container.volumeMounts ?? []), ...storage.mounts],
  };
}

function initializer(options: WorkerOptions): Container[] {
  const { storage, secretEnv } = options;
  const { initializerImage, localControllerServer } = options.initializer;
  if (storage.downloads.length === 0) return [];
  return [
    {
      name: 'storage-initializer',
      image: initializerImage,
      imagePullPolicy: 'IfNotPresent',
      command: ['node', 'workers/src/storage-initializer.ts'],
      args: [...storage.downloads],
      env: [...ADDRESSES, { name: 'LC_SERVER', value: localControllerServer }, ...secretEnv],
      resources: { limits: { cpu: '1', memory: '1Gi' } },
      volumeMounts: [{ name: 'sedna-storage-initializer', mountPath: '/downloads' }],
    },
  ];
}

function isPlaced(spec: PodSpec): boolean {
  return (
    Boolean(spec.nodeName) ||
    Object.keys(spec.nodeSelector ?? {}).length > 0 ||
    spec['affinity'] !== undefined
  );
}

/** The pod of a worker: the user's template with our environment, mounts and labels added. */
export function buildPodTemplate(options: WorkerOptions): PodTemplate & { spec: PodSpec } {
  const { template, env, storage, owner, type } = options;
  const user: PodSpec = template.spec ?? { containers: [] };
  const spec: PodSpec = {
    ...user,
    initContainers: [...initializer(options), ...(user.initContainers ?? [])],
    containers: user.containers.map((c) => withEnvironment(c, env, storage)),
    volumes: [...(user.volumes ?? []), ...storage.volumes],
  };
  if (spec.initContainers?.length === 0) delete spec.initContainers;
  if (options.hostNetwork) spec.hostNetwork = true;
  if (options.restartPolicy) spec.restartPolicy ??= options.restartPolicy;
  if (options.defaultNode && !isPlaced(spec)) spec.nodeName = options.defaultNode;
  const blobs = storage.downloads
    .filter((d) => d.startsWith('blob:'))
    .map((d) => d.slice('blob:'.length));
  const annotations = {
    ...template.metadata?.annotations,
    ...(blobs.length > 0 ? { [BLOBS_ANNOTATION]: blobs.join(',') } : {}),
    ...(options.services?.length ? { [SERVICES_ANNOTATION]: options.services.join(',') } : {}),
  };
  return {
    metadata: {
      ...template.metadata,
      ...(Object.keys(annotations).length > 0 ? { annotations } : {}),
      labels: { ...template.metadata?.labels, ...options.labels, ...workerLabels(owner, type) },
    },
    spec,
  };
}
