import { expect, it } from 'vitest';
import type { ApiObject } from '../object.ts';
import { toV1, toV2 } from './autoscaling-v1.ts';

const V1 = {
  apiVersion: 'autoscaling/v1',
  kind: 'HorizontalPodAutoscaler',
  metadata: { name: 'tool' },
  spec: {
    scaleTargetRef: { apiVersion: 'apps/v1', kind: 'Deployment', name: 'tool' },
    minReplicas: 1,
    maxReplicas: 3,
    targetCPUUtilizationPercentage: 50,
  },
};

it('says the same in both versions', () => {
  const second = toV2(V1) as ApiObject;
  expect(second.apiVersion).toBe('autoscaling/v2');
  expect(second.spec?.['metrics']).toEqual([
    {
      type: 'Resource',
      resource: { name: 'cpu', target: { type: 'Utilization', averageUtilization: 50 } },
    },
  ]);
  expect(toV1(second)).toEqual(V1);
});

it('has no metrics where none were given', () => {
  const { targetCPUUtilizationPercentage: _none, ...spec } = V1.spec;
  expect((toV2({ ...V1, spec }) as ApiObject).spec).toEqual(spec);
});
