import {
  appendCondition,
  type Condition,
  type JointInferenceService,
  recordKey,
  type ServiceReport,
} from '@shoal/api';
import { rfc3339 } from '@shoal/core';
import type { Records } from '../../edge-link/records.ts';
import type { KubeObject } from '../../kube/kube-api.ts';
import { troubleOf } from '../pod-trouble.ts';

interface Available {
  readonly status?: { readonly availableReplicas?: number };
}

/** Workers that are available, of the two. */
export function activeWorkers(deployments: readonly KubeObject[]): number {
  return deployments.filter((d) => ((d as unknown as Available).status?.availableReplicas ?? 0) > 0)
    .length;
}

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
  readonly pods: readonly KubeObject[];
  readonly records: Records;
  readonly nowMs: number;
}

/** The service's status from what is there now. */
export function serviceStatus(
  inputs: StatusInputs,
): NonNullable<JointInferenceService['status']> & { conditions: Condition[] } {
  const { service, deployments, pods, records, nowMs } = inputs;
  const active = activeWorkers(deployments);
  const trouble = pods.map(troubleOf).find((t) => t !== undefined);
  const condition =
    active === 2
      ? {
          type: 'Running',
          status: 'True' as const,
          reason: 'WorkersAvailable',
          message: 'both workers are available',
        }
      : trouble === undefined
        ? {
            type: 'Pending',
            status: 'True' as const,
            reason: 'WorkersStarting',
            message: `${active} of 2 workers are available`,
          }
        : {
            type: 'Failed',
            status: 'True' as const,
            reason: 'workerFailed',
            message: `the worker of service failed: ${trouble}`,
          };
  const reports = records
    .records<ServiceReport>(`${recordKey('JointInferenceService', service.metadata)}/`)
    .map((r) => r.body);
  return {
    ...service.status,
    conditions: appendCondition(service.status?.conditions, condition, nowMs),
    startTime: service.status?.startTime ?? rfc3339(nowMs),
    active,
    failed: 2 - active,
    metrics: serviceMetrics(reports),
    ...(service.metadata.generation === undefined
      ? {}
      : { observedGeneration: service.metadata.generation }),
  };
}
