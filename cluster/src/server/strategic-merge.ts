import { isJsonObject, type JsonObject } from '@shoal/core';

/**
 * Strategic merge patch. Lists of objects merge by a key that Kubernetes declares per field; the
 * client has these compiled in, so the server must hold its own table (field name → key, by the
 * name of the list and, where it differs, its parent).
 */
const MERGE_KEYS: Readonly<Record<string, string>> = {
  containers: 'name',
  initContainers: 'name',
  ephemeralContainers: 'name',
  volumes: 'name',
  env: 'name',
  volumeMounts: 'mountPath',
  volumeDevices: 'devicePath',
  imagePullSecrets: 'name',
  hostAliases: 'ip',
  conditions: 'type',
  ownerReferences: 'uid',
  addresses: 'type',
  taints: 'key',
  secrets: 'name',
  topologySpreadConstraints: 'topologyKey',
  resourceClaims: 'name',
};
const PORT_KEYS: Readonly<Record<string, string>> = { spec: 'port', containers: 'containerPort' };
/** Lists of plain values that merge as sets. */
const SET_LISTS = new Set(['finalizers']);

function mergeKey(field: string, parent: string): string | undefined {
  if (field === 'ports') return PORT_KEYS[parent] ?? 'containerPort';
  return MERGE_KEYS[field];
}

function reorder(list: unknown[], order: unknown[], key: string | undefined): unknown[] {
  const idOf = (item: unknown): unknown => (key && isJsonObject(item) ? item[key] : item);
  const wanted = order.map(idOf);
  const rank = (item: unknown): number => {
    const at = wanted.indexOf(idOf(item));
    return at < 0 ? wanted.length : at;
  };
  return list
    .map((item, i) => ({ item, i }))
    .sort((a, b) => rank(a.item) - rank(b.item) || a.i - b.i)
    .map(({ item }) => item);
}

function mergeObjects(
  list: unknown[],
  patch: unknown[],
  at: { field: string; key: string },
): unknown[] {
  const { field, key } = at;
  if (patch.some((p) => isJsonObject(p) && p['$patch'] === 'replace')) {
    return patch.filter((p) => !(isJsonObject(p) && p['$patch'] === 'replace'));
  }
  const result = [...list];
  for (const item of patch) {
    if (!isJsonObject(item)) continue;
    const found = result.findIndex((r) => isJsonObject(r) && r[key] === item[key]);
    if (item['$patch'] === 'delete') {
      if (found >= 0) result.splice(found, 1);
    } else if (found >= 0) result[found] = mergeMap(result[found], item, field);
    else result.push(mergeMap({}, item, field));
  }
  return result;
}

function mergeLists(
  current: unknown,
  patch: unknown[],
  at: { field: string; parent: string },
): unknown[] {
  const list = Array.isArray(current) ? current : [];
  const key = mergeKey(at.field, at.parent);
  if (key && patch.every((p) => isJsonObject(p))) {
    return mergeObjects(list, patch, { field: at.field, key });
  }
  if (SET_LISTS.has(at.field)) return [...new Set([...list, ...patch])];
  return patch;
}

function applyDirective(result: JsonObject, name: string, value: unknown): void {
  const deletion = /^\$deleteFromPrimitiveList\/(.*)$/.exec(name)?.[1];
  if (deletion !== undefined && Array.isArray(value) && Array.isArray(result[deletion])) {
    result[deletion] = result[deletion].filter((v: unknown) => !value.includes(v));
  }
}

function applyOrder(result: JsonObject, patch: JsonObject, parent: string): void {
  for (const [name, order] of Object.entries(patch)) {
    const field = /^\$setElementOrder\/(.*)$/.exec(name)?.[1];
    const list = field === undefined ? undefined : result[field];
    if (field !== undefined && Array.isArray(list) && Array.isArray(order)) {
      result[field] = reorder(list, order, mergeKey(field, parent));
    }
  }
}

function mergeMap(target: unknown, patch: JsonObject, parent: string): unknown {
  if (patch['$patch'] === 'replace') {
    const { $patch: _directive, ...rest } = patch;
    return rest;
  }
  const result: JsonObject = isJsonObject(target) ? { ...target } : {};
  const retained = patch['$retainKeys'];
  if (Array.isArray(retained)) {
    for (const key of Object.keys(result)) if (!retained.includes(key)) delete result[key];
  }
  for (const [key, value] of Object.entries(patch)) {
    if (key.startsWith('$')) applyDirective(result, key, value);
    else if (value === null) delete result[key];
    else if (Array.isArray(value))
      result[key] = mergeLists(result[key], value, { field: key, parent });
    else if (isJsonObject(value)) result[key] = mergeMap(result[key], value, key);
    else result[key] = value;
  }
  applyOrder(result, patch, parent);
  return result;
}

/** Applies a strategic merge patch; neither argument is changed. */
export function strategicMergePatch(target: unknown, patch: unknown): unknown {
  return isJsonObject(patch) ? mergeMap(target, patch, '') : patch;
}
