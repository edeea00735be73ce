import { expect, test } from 'vitest';
import type { ApiObject } from '../object.ts';
import {
  bound,
  type MetricReading,
  type PodUse,
  type Resize,
  readMetric,
} from './autoscaling-plan.ts';

const utilization = (averageUtilization: number, name = 'cpu'): unknown => ({
  type: 'Resource',
  resource: { name, target: { type: 'Utilization', averageUtilization } },
});

function use(cpu: number | undefined, request: string | null = '200m'): PodUse {
  const resources = request === null ? {} : { requests: { cpu: request } };
  const pod: ApiObject = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'p' },
    spec: { containers: [{ name: 'c', resources }] },
  };
  return { pod, cpu, memory: undefined };
}

const replicas = (uses: readonly PodUse[], target = 50, current: number = uses.length): unknown =>
  (readMetric(utilization(target), uses, current) as MetricReading).replicas;

test('replicas follow the ratio of use to target, rounded up, with a tolerance of a tenth', () => {
  expect(replicas([use(0.2)])).toBe(2); // 100 % of a target of 50 %
  expect(replicas([use(0.2), use(0.1), use(0.09)])).toBe(4); // 65 %: 3 × 1.3
  expect(replicas([use(0.105)])).toBe(1); // 53 %: within the tolerance
  expect(replicas([use(0.01), use(0.01), use(0.01)])).toBe(1);
});

test('pods without figures keep it from going too far', () => {
  // 200 % of the target, but half of the pods unknown and taken as idle: as it is.
  expect(replicas([use(0.2), use(undefined)])).toBe(2);
  // 20 % of the target, the unknown one taken as fully used.
  expect(replicas([use(0.02), use(0.02), use(undefined)])).toBe(2);
});

test('what it cannot do it says', () => {
  expect(readMetric(utilization(50), [use(0.1, null)], 1)).toMatchObject({
    reason: 'FailedGetResourceMetric',
  });
  expect(readMetric(utilization(50), [use(undefined)], 1)).toMatchObject({
    message: expect.stringContaining('no metrics returned') as string,
  });
  expect(readMetric({ type: 'Pods' }, [use(0.1)], 1)).toMatchObject({
    reason: 'FailedGetPodsMetric',
  });
});

const hpa = (spec: object = {}): ApiObject => ({
  apiVersion: 'autoscaling/v2',
  kind: 'HorizontalPodAutoscaler',
  metadata: { name: 'h' },
  spec: { minReplicas: 2, maxReplicas: 10, ...spec },
});

test('bounds: minimum, maximum, speed upwards, five minutes of patience downwards', () => {
  const at = (desired: number, current = 3, past: { at: number; replicas: number }[] = []) =>
    bound(hpa(), { current, desired, past, resizes: [] }, 1_000_000);
  expect(at(1)).toMatchObject({ replicas: 2, limited: { reason: 'TooFewReplicas' } });
  expect(at(30, 8)).toMatchObject({ replicas: 10, limited: { reason: 'TooManyReplicas' } });
  expect(at(9, 2)).toMatchObject({ replicas: 6, limited: { reason: 'ScaleUpLimit' } });
  expect(at(4)).toEqual({ replicas: 4, limited: undefined });
  expect(at(2, 5, [{ at: 800_000, replicas: 4 }]).replicas).toBe(4);
  expect(at(2, 5, [{ at: 600_000, replicas: 4 }]).replicas).toBe(2);
  const eager = hpa({ behavior: { scaleDown: { stabilizationWindowSeconds: 0 } } });
  const past = [{ at: 999_000, replicas: 4 }];
  const scale = { current: 5, desired: 2, past, resizes: [] };
  expect(bound(eager, scale, 1_000_000).replicas).toBe(2);
});

test('policies: so many pods or per cent within a period, the larger or the smaller, or not at all', () => {
  const pods = (value: number): object => ({ type: 'Pods', value, periodSeconds: 60 });
  const percent = (value: number): object => ({ type: 'Percent', value, periodSeconds: 60 });
  const to = (behavior: object, current: number, desired: number, resizes: Resize[] = []): number =>
    bound(
      hpa({ minReplicas: 1, maxReplicas: 100, behavior }),
      { current, desired, past: [], resizes },
      1_000_000,
    ).replicas;
  expect(to({ scaleUp: { policies: [pods(1)] } }, 5, 50)).toBe(6);
  // One more was added within the minute: no other now.
  expect(to({ scaleUp: { policies: [pods(1)] } }, 5, 50, [{ at: 990_000, by: 1 }])).toBe(5);
  expect(to({ scaleUp: { policies: [pods(1)] } }, 5, 50, [{ at: 900_000, by: 1 }])).toBe(6);
  expect(to({ scaleUp: { policies: [pods(1), percent(100)] } }, 5, 50)).toBe(10);
  expect(to({ scaleUp: { policies: [pods(1), percent(100)], selectPolicy: 'Min' } }, 5, 50)).toBe(
    6,
  );
  expect(to({ scaleUp: { selectPolicy: 'Disabled' } }, 5, 50)).toBe(5);
  expect(to({ scaleDown: { policies: [percent(10)] } }, 50, 1)).toBe(45);
  expect(to({ scaleDown: { policies: [pods(3)], selectPolicy: 'Min' } }, 50, 1)).toBe(47);
});
