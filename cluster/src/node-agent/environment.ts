import { isJsonObject, ShoalError } from '@shoal/core';
import { type ApiObject, dig, digList, digObject, digString, scalarText } from '../object.ts';
import type { Mount, ReadConfig } from './volumes.ts';

export interface EnvironmentContext {
  readonly podIp: string;
  readonly hostIp: string;
  readonly readConfig: ReadConfig;
  /** Services by `name.namespace`, with their ClusterIP. */
  readonly services: ReadonlyMap<string, string>;
  readonly mounts: readonly Mount[];
  readonly rootfs: string;
  /** Host paths by mountPath: recognises prefixes such as `/home/data` (mount = prefix + host path). */
  readonly hostPaths: ReadonlyMap<string, string>;
}

function fieldRef(pod: ApiObject, path: string, context: EnvironmentContext): string {
  const keyed = /^metadata\.(labels|annotations)\['([^']+)'\]$/.exec(path);
  if (keyed) return digString(pod, 'metadata', keyed[1] ?? '', keyed[2] ?? '') ?? '';
  if (path === 'status.podIP' || path === 'status.podIPs') return context.podIp;
  if (path === 'status.hostIP' || path === 'status.hostIPs') return context.hostIp;
  const value = dig(pod, ...path.split('.'));
  if (typeof value === 'string') return value;
  if (path === 'spec.serviceAccountName') return 'default';
  throw new ShoalError('invalid_argument', `fieldRef ${path} is not supported`);
}

async function fromSource(
  pod: ApiObject,
  source: object,
  context: EnvironmentContext,
): Promise<string | undefined> {
  const field = digString(source, 'fieldRef', 'fieldPath');
  if (field !== undefined) return fieldRef(pod, field, context);
  const resource = digString(source, 'resourceFieldRef', 'resource');
  if (resource !== undefined)
    return (
      scalarText(dig(digList(pod, 'spec', 'containers')[0], 'resources', ...resource.split('.'))) ||
      '0'
    );
  for (const [ref, kind] of [
    ['configMapKeyRef', 'configmaps'],
    ['secretKeyRef', 'secrets'],
  ] as const) {
    const name = digString(source, ref, 'name');
    if (name === undefined) continue;
    const key = digString(source, ref, 'key') ?? '';
    const value = digString(await context.readConfig(kind, name), 'data', key);
    if (value !== undefined)
      return kind === 'secrets' ? Buffer.from(value, 'base64').toString('utf8') : value;
    if (dig(source, ref, 'optional') === true) return undefined;
    throw new ShoalError('not_found', `${kind.slice(0, -1)} "${name}" has no key "${key}"`, {
      retry: 'backoff',
    });
  }
  throw new ShoalError('unsupported', 'unknown env value source');
}

/** `$(NAME)` becomes the value of a variable defined before; `$$(NAME)` stays as `$(NAME)`. */
export function expand(text: string, variables: Readonly<Record<string, string>>): string {
  return text.replace(
    /\$(\$)?\(([A-Za-z_][\w.-]*)\)/g,
    (whole, escaped: string | undefined, name: string) =>
      escaped
        ? whole.slice(1)
        : Object.hasOwn(variables, name)
          ? (variables[name] ?? whole)
          : whole,
  );
}

/** Names of services have no DNS here: `svc.ns` in a value becomes the service's address. */
function resolveServices(text: string, services: ReadonlyMap<string, string>): string {
  return text.replace(
    /(^|[/@,;|=])([a-z0-9-]+\.[a-z0-9-]+)(?:\.svc(?:\.cluster\.local)?)?(?=$|[:/,;|])/g,
    (whole, before: string, name: string) => {
      const address = services.get(name);
      return address === undefined ? whole : `${before}${address}`;
    },
  );
}

/**
 * There is no mount namespace, so a value that begins with a mount path is translated to the real
 * path; lists joined by `;` are translated part by part.
 */
export function translate(
  text: string,
  context: Pick<EnvironmentContext, 'mounts' | 'hostPaths' | 'rootfs'>,
): string {
  const one = (part: string): string => {
    const mount = context.mounts.find(
      (m) => part === m.mountPath || part.startsWith(`${m.mountPath}/`),
    );
    if (mount) return mount.realPath + part.slice(mount.mountPath.length);
    const isPrefix =
      part.startsWith('/') &&
      [...context.hostPaths].some(([path, host]) => path === `${part}${host}`.replace(/\/+$/, ''));
    return isPrefix ? context.rootfs : part;
  };
  return text.split(';').map(one).join(';');
}

/**
 * `kubectl cp` packs files with `tar cf - path` and expects their names to begin with that path:
 * where it was translated, tar is told to write the names as they were asked for.
 *
 * @param asked The command as the client sent it.
 * @param translated The same command with real paths.
 */
export function withMountedNames(
  asked: readonly string[],
  translated: readonly string[],
): string[] {
  const [program, action, target, ...paths] = asked;
  const [tar = '', , , ...real] = translated;
  if (program !== 'tar' || action !== 'cf' || target !== '-') return [...translated];
  const renames = paths.flatMap((path, i) => {
    const found = real[i] ?? path;
    const pattern = found.slice(1).replace(/[\\.*[\]^$,&]/g, '\\$&');
    return found === path ? [] : [`--transform=s,^${pattern},${path.slice(1)},`];
  });
  return [tar, ...renames, 'cf', '-', ...real];
}

function serviceVariables(pod: ApiObject, context: EnvironmentContext): Record<string, string> {
  const suffix = `.${pod.metadata.namespace}`;
  const variables: Record<string, string> = {};
  for (const [name, address] of context.services) {
    if (name.endsWith(suffix))
      variables[
        `${name.slice(0, -suffix.length).toUpperCase().replaceAll('-', '_')}_SERVICE_HOST`
      ] = address;
  }
  return variables;
}

async function fromWhole(
  container: unknown,
  context: EnvironmentContext,
): Promise<Record<string, string>> {
  const variables: Record<string, string> = {};
  for (const source of digList(container, 'envFrom')) {
    const prefix = digString(source, 'prefix') ?? '';
    for (const [ref, kind] of [
      ['configMapRef', 'configmaps'],
      ['secretRef', 'secrets'],
    ] as const) {
      const name = digString(source, ref, 'name');
      if (name === undefined) continue;
      const object = await context.readConfig(kind, name);
      if (!object && dig(source, ref, 'optional') !== true) {
        const message = `${kind.slice(0, -1)} "${name}" not found`;
        throw new ShoalError('not_found', message, { retry: 'backoff' });
      }
      const data = digObject(object, 'data');
      for (const [key, value] of Object.entries(data)) {
        variables[prefix + key] =
          kind === 'secrets'
            ? Buffer.from(String(value), 'base64').toString('utf8')
            : String(value);
      }
    }
  }
  return variables;
}

/** The environment of a container as its process gets it. */
export async function containerEnvironment(
  pod: ApiObject,
  container: unknown,
  context: EnvironmentContext,
): Promise<Record<string, string>> {
  const variables: Record<string, string> = {
    ...serviceVariables(pod, context),
    ...(await fromWhole(container, context)),
  };
  for (const entry of digList(container, 'env')) {
    if (!isJsonObject(entry)) continue;
    const name = String(entry['name']);
    const source = entry['valueFrom'];
    const value = isJsonObject(source)
      ? await fromSource(pod, source, context)
      : expand(scalarText(entry['value']), variables);
    if (value !== undefined) variables[name] = value;
  }
  return Object.fromEntries(
    Object.entries(variables).map(([k, v]) => [
      k,
      translate(resolveServices(v, context.services), context),
    ]),
  );
}
