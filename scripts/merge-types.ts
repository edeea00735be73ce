/**
 * How Kubernetes merges the lists and maps of its own types (`listType`, `listMapKey`, `mapType` of
 * Kubernetes 1.32's API): lists that merge by keys, lists that are sets, and what is replaced as a
 * whole (`.` is the type itself). Every list that is not named is replaced as a whole.
 */
export const MERGE_TYPES: Readonly<
  Record<string, Readonly<Record<string, 'atomic' | 'set' | readonly string[]>>>
> = {
  V1DeploymentStatus: { conditions: ['type'] },
  V1ReplicaSetStatus: { conditions: ['type'] },
  V2HorizontalPodAutoscalerStatus: { conditions: ['type'] },
  V1PodFailurePolicyOnExitCodesRequirement: { values: 'set' },
  V1UncountedTerminatedPods: { failed: 'set', succeeded: 'set' },
  V1ConfigMapKeySelector: { '.': 'atomic' },
  V1Container: {
    env: ['name'],
    ports: ['containerPort', 'protocol'],
    volumeDevices: ['devicePath'],
    volumeMounts: ['mountPath'],
  },
  V1ContainerStatus: { allocatedResourcesStatus: ['name'], volumeMounts: ['mountPath'] },
  V1EndpointAddress: { '.': 'atomic' },
  CoreV1EndpointPort: { '.': 'atomic' },
  V1EphemeralContainer: {
    env: ['name'],
    ports: ['containerPort', 'protocol'],
    volumeDevices: ['devicePath'],
    volumeMounts: ['mountPath'],
  },
  V1LocalObjectReference: { '.': 'atomic' },
  V1NamespaceStatus: { conditions: ['type'] },
  V1NodeSelector: { '.': 'atomic' },
  V1NodeSelectorTerm: { '.': 'atomic' },
  V1NodeSpec: { podCIDRs: 'set' },
  V1NodeStatus: { addresses: ['type'], conditions: ['type'] },
  V1ObjectFieldSelector: { '.': 'atomic' },
  V1ObjectReference: { '.': 'atomic' },
  V1PodSpec: {
    containers: ['name'],
    ephemeralContainers: ['name'],
    hostAliases: ['ip'],
    imagePullSecrets: ['name'],
    initContainers: ['name'],
    nodeSelector: 'atomic',
    resourceClaims: ['name'],
    schedulingGates: ['name'],
    topologySpreadConstraints: ['topologyKey', 'whenUnsatisfiable'],
    volumes: ['name'],
  },
  V1PodStatus: { conditions: ['type'], podIPs: ['ip'], resourceClaimStatuses: ['name'] },
  V1ResourceFieldSelector: { '.': 'atomic' },
  V1ResourceRequirements: { claims: ['name'] },
  V1ResourceStatus: { resources: ['resourceID'] },
  V1SecretKeySelector: { '.': 'atomic' },
  V1ServiceAccount: { secrets: ['name'] },
  V1ServiceSpec: { ports: ['port', 'protocol'], selector: 'atomic' },
  V1ServiceStatus: { conditions: ['type'] },
  V1TypedLocalObjectReference: { '.': 'atomic' },
  V1Endpoint: { addresses: 'set' },
  DiscoveryV1EndpointPort: { '.': 'atomic' },
  V1RoleRef: { '.': 'atomic' },
  V1LabelSelector: { '.': 'atomic' },
  V1ObjectMeta: { finalizers: 'set', ownerReferences: ['uid'] },
  V1OwnerReference: { '.': 'atomic' },
};

/** Fields that are part of a list's key and may be left out. */
export const KEY_DEFAULTS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  V1ContainerPort: { protocol: 'TCP' },
  V1ServicePort: { protocol: 'TCP' },
  V1LocalObjectReference: { name: '' },
};
