import {
  appendCondition,
  type Condition,
  type JointInferenceService,
  type PlacementGroup,
  type ResolvedGroup,
  type RolloutStatus,
  type ServiceReport,
} from '@shoal/api';
import { rfc3339 } from '@shoal/core';
import type { Records } from '../../edge-link/records.ts';
import type { KubeObject } from '../../kube/kube-api.ts';
import { NODE_LABEL, nodeLabel, type PlacedNode } from '../../placement/groups.ts';
import { miningOf, thresholdOf } from '../../placement/overrides.ts';
import { placementStatus, sharedPart } from '../../placement/status.ts';
import { workOf } from '../job-nodes.ts';
import { troubleOf } from '../pod-trouble.ts';

interface Available {
  readonly status?: { readonly availableReplicas?: number };
}

function isAvailable(deployment: KubeObject): boolean {
  return ((deployment as unknown as Available).status?.availableReplicas ?? 0) > 0;
}

/** What workers of a group run with. */
function resolved({ spec }: JointInferenceService, { overrides }: PlacementGroup): ResolvedGroup {
  const mining = miningOf(spec.edgeWorker.hardExampleMining, overrides);
  const threshold = thresholdOf(mining);
  return {
    model: overrides?.model?.name ?? spec.edgeWorker.model.name,
    ...(mining.parameters ? { parameters: mining.parameters } : {}),
    ...(threshold === undefined ? {} : { threshold }),
    ...(overrides?.endpoint === undefined ? {} : { endpoint: overrides.endpoint }),
    ...sharedPart(overrides),
  };
}

function placementOf({ service, deployments, placed }: StatusInputs): Pick<Status, 'placement'> {
  const { placement } = service.spec;
  if (!placement || !placed) return {};
  const ready = new Set(
    deployments.filter(isAvailable).map((d) => d.metadata.labels?.[NODE_LABEL]),
  );
  return {
    placement: placementStatus(placement.groups, placed, {
      resolved: (group) => resolved(service, group),
      isReady: (node) => ready.has(nodeLabel(node)),
    }),
  };
}

type Status = NonNullable<JointInferenceService['status']>;

/** Figures of all edge workers together: counts are summed, the ratio follows from the sums. */
export function serviceMetrics(
  reports: readonly ServiceReport[],
): { key: string; value: string }[] {
  const totals = new Map<string, number>();
  const last = new Map<string, string>();
  for (const { ownerInfo } of reports) {
    for (const [key, value] of Object.entries(ownerInfo)) {
      if (key === 'startTime' || key === 'updateTime') continue;
      if (typeof value === 'number' && key.endsWith('Number'))
        totals.set(key, (totals.get(key) ?? 0) + value);
      else last.set(key, typeof value === 'string' ? value : JSON.stringify(value));
    }
  }
  const inferences = totals.get('inferenceNumber') ?? 0;
  const uploads = totals.get('uploadNumber');
  if (uploads !== undefined && inferences > 0)
    last.set('uploadCloudRatio', (uploads / inferences).toFixed(4));
  const all = [...[...totals].map(([k, v]) => [k, String(v)] as const), ...last];
  return all.map(([key, value]) => ({ key, value })).toSorted((a, b) => (a.key < b.key ? -1 : 1));
}

export interface StatusInputs {
  readonly service: JointInferenceService;
  readonly deployments: readonly KubeObject[];
  /** Nodes of the groups, for a service that has them. */
  readonly placed: readonly PlacedNode<PlacementGroup>[] | undefined;
  readonly rollout: RolloutStatus | undefined;
  readonly pods: readonly KubeObject[];
  readonly records: Records;
  readonly nowMs: number;
}

function groupNames({ spec }: JointInferenceService): string {
  const names = (spec.placement?.groups ?? []).map((g) => g.name);
  return `${names.length === 1 ? 'group' : 'groups'} ${names.join(', ')}`;
}

/** The service's status from what is there now. */
export function serviceStatus(inputs: StatusInputs): Status & { conditions: Condition[] } {
  const { service, deployments, pods, records, nowMs } = inputs;
  const active = deployments.filter(isAvailable).length;
  const { placement: _old, rollout: _older, ...before } = service.status ?? {};
  const trouble = pods.map(troubleOf).find((t) => t !== undefined);
  const condition =
    active === deployments.length && deployments.length > 1
      ? {
          type: 'Running',
          status: 'True' as const,
          reason: 'WorkersAvailable',
          message:
            active === 2 ? 'both workers are available' : `all ${active} workers are available`,
        }
      : trouble === undefined
        ? {
            type: 'Pending',
            status: 'True' as const,
            reason: 'WorkersStarting',
            message:
              deployments.length === 1
                ? `no node is in ${groupNames(service)}`
                : `${active} of ${deployments.length} workers are available`,
          }
        : {
            type: 'Failed',
            status: 'True' as const,
            reason: 'workerFailed',
            message: `the worker of service failed: ${trouble}`,
          };
  const reports = records
    .said<ServiceReport>(workOf('JointInferenceService', service))
    .map((r) => r.body);
  return {
    ...before,
    ...placementOf(inputs),
    ...(inputs.rollout ? { rollout: inputs.rollout } : {}),
    conditions: appendCondition(service.status?.conditions, condition, nowMs),
    startTime: service.status?.startTime ?? rfc3339(nowMs),
    active,
    failed: deployments.length - active,
    metrics: serviceMetrics(reports),
    ...(service.metadata.generation === undefined
      ? {}
      : { observedGeneration: service.metadata.generation }),
  };
}
