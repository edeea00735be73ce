import { isJsonObject, type JsonObject } from '@shoal/core';
import { type ApiObject, digNumber, digObject, digString } from '../object.ts';
import { type Exchange, readJson, sendJson } from './exchange.ts';
import type { ResourceRegistry } from './resource-registry.ts';
import type { Verbs } from './verbs.ts';

const PATH = /^\/apis\/autoscaling\/v1\/namespaces\/([^/]+)\/horizontalpodautoscalers$/;

/** An autoscaling/v1 body as autoscaling/v2 says it: its one target is the mean use of the processor. */
export function toV2(body: unknown): unknown {
  if (!isJsonObject(body)) return body;
  const { targetCPUUtilizationPercentage: percent, ...spec } = digObject(body, 'spec');
  const metrics =
    typeof percent === 'number'
      ? [
          {
            type: 'Resource',
            resource: { name: 'cpu', target: { type: 'Utilization', averageUtilization: percent } },
          },
        ]
      : undefined;
  return {
    ...body,
    apiVersion: 'autoscaling/v2',
    spec: { ...spec, ...(metrics ? { metrics } : {}) },
  };
}

/** The same the other way round; metrics that v1 has no word for are left out. */
export function toV1(object: ApiObject): JsonObject {
  const { metrics, behavior: _behavior, ...spec } = object.spec ?? {};
  const list: unknown[] = Array.isArray(metrics) ? metrics : [];
  const cpu = list.find((m) => digString(m, 'resource', 'name') === 'cpu');
  const percent = digNumber(cpu, 'resource', 'target', 'averageUtilization');
  return {
    ...object,
    apiVersion: 'autoscaling/v1',
    spec: {
      ...spec,
      ...(percent === undefined ? {} : { targetCPUUtilizationPercentage: percent }),
    },
  };
}

/**
 * `kubectl autoscale` of 1.32 writes the first version; it is kept as the second, the one that is served.
 *
 * @returns False for any other request.
 */
export async function createAutoscaler(
  exchange: Exchange,
  registry: ResourceRegistry,
  verbs: Verbs,
): Promise<boolean> {
  const namespace = PATH.exec(exchange.path)?.[1];
  const resource = registry.find('autoscaling', 'v2', 'horizontalpodautoscalers');
  if (namespace === undefined || exchange.method !== 'POST' || !resource) return false;
  const { object, warnings } = await verbs.create(
    { resource, namespace: decodeURIComponent(namespace) },
    toV2(await readJson(exchange)),
    { dryRun: exchange.query.getAll('dryRun').includes('All') },
  );
  const said = resource.warning === undefined ? warnings : [...warnings, resource.warning];
  sendJson(exchange, toV1(object), { code: 201, warnings: said });
  return true;
}
