import { chmodSync, existsSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { isJsonObject, ShoalError } from '@shoal/core';
import { type ApiObject, dig, digList, digNumber, digObject, digString } from '../object.ts';

/** Where a pod's volumes really are: volume name → folder or file on this machine. */
export type VolumePaths = ReadonlyMap<string, string>;

/** Reads a ConfigMap or Secret of the pod's namespace; undefined when there is none. */
export type ReadConfig = (
  kind: 'configmaps' | 'secrets',
  name: string,
) => Promise<ApiObject | undefined>;

export interface VolumeContext {
  /** The node's root directory; host paths are below it. */
  readonly rootfs: string;
  /** A folder of this pod's own. */
  readonly podDir: string;
  readonly readConfig: ReadConfig;
}

/** A path inside the node's root; `..` cannot leave it. */
export function underRoot(rootfs: string, path: string): string {
  return join(rootfs, normalize(join('/', path)));
}

function mountHostPath(source: object, rootfs: string): string {
  const path = digString(source, 'path') ?? '/';
  const type = digString(source, 'type') ?? '';
  const real = underRoot(rootfs, path);
  const present = existsSync(real);
  if (type === 'Directory' && !(present && statSync(real).isDirectory())) {
    throw new ShoalError(
      'failed_precondition',
      `hostPath type check failed: ${path} is not a directory on this node`,
    );
  }
  if (type === 'File' && !(present && statSync(real).isFile())) {
    throw new ShoalError(
      'failed_precondition',
      `hostPath type check failed: ${path} is not a file on this node`,
    );
  }
  if (present) return real;
  mkdirSync(type === 'FileOrCreate' ? dirname(real) : real, { recursive: true });
  if (type === 'FileOrCreate') writeFileSync(real, '');
  return real;
}

async function mountFiles(
  kind: 'configmaps' | 'secrets',
  source: object,
  to: { dir: string; read: ReadConfig },
): Promise<string> {
  const name = digString(source, 'name') ?? digString(source, 'secretName') ?? '';
  const object = await to.read(kind, name);
  const isOptional = dig(source, 'optional') === true;
  if (!object && isOptional) {
    mkdirSync(to.dir, { recursive: true, mode: 0o700 });
    return to.dir;
  }
  if (!object) {
    const word = kind === 'secrets' ? 'secret' : 'configmap';
    throw new ShoalError('not_found', `${word} "${name}" not found`, { retry: 'backoff' });
  }
  mkdirSync(to.dir, { recursive: true, mode: 0o700 });
  const items = digList(source, 'items').filter(isJsonObject);
  const data = digObject(object, 'data');
  const files =
    items.length > 0
      ? items.map((i) => [String(i['key']), String(i['path'])] as const)
      : Object.keys(data).map((k) => [k, k] as const);
  for (const [key, path] of files) {
    const value = data[key];
    if (typeof value !== 'string' && isOptional) continue;
    if (typeof value !== 'string')
      throw new ShoalError('not_found', `"${name}" has no key "${key}"`, { retry: 'backoff' });
    const file = join(to.dir, normalize(join('/', path)));
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, kind === 'secrets' ? Buffer.from(value, 'base64') : value);
    // Nobody but the agent's user reads a secret, whatever mode the volume names.
    const mode = digNumber(source, 'defaultMode') ?? 0o644;
    chmodSync(file, kind === 'secrets' ? mode & 0o700 || 0o600 : mode);
  }
  return to.dir;
}

/** Prepares all volumes of a pod. @throws ShoalError saying which volume cannot be mounted and why. */
export async function prepareVolumes(pod: ApiObject, context: VolumeContext): Promise<VolumePaths> {
  const paths = new Map<string, string>();
  for (const volume of digList(pod, 'spec', 'volumes')) {
    const name = digString(volume, 'name') ?? '';
    const dir = join(context.podDir, 'volumes', name);
    if (!isJsonObject(volume)) continue;
    if (isJsonObject(volume['hostPath']))
      paths.set(name, mountHostPath(volume['hostPath'], context.rootfs));
    else if (isJsonObject(volume['emptyDir'])) {
      mkdirSync(dir, { recursive: true });
      paths.set(name, dir);
    } else if (isJsonObject(volume['configMap'])) {
      paths.set(
        name,
        await mountFiles('configmaps', volume['configMap'], { dir, read: context.readConfig }),
      );
    } else if (isJsonObject(volume['secret'])) {
      paths.set(
        name,
        await mountFiles('secrets', volume['secret'], { dir, read: context.readConfig }),
      );
    } else {
      throw new ShoalError(
        'unsupported',
        `volume "${name}": this cluster mounts hostPath, emptyDir, configMap and secret only`,
      );
    }
  }
  return paths;
}

export interface Mount {
  readonly mountPath: string;
  readonly realPath: string;
}

/** A container's mounts, longest path first. */
export function mountsOf(container: unknown, volumes: VolumePaths): Mount[] {
  return digList(container, 'volumeMounts')
    .map((m) => {
      const base = volumes.get(digString(m, 'name') ?? '') ?? '';
      const sub = digString(m, 'subPath');
      return {
        mountPath: (digString(m, 'mountPath') ?? '').replace(/\/+$/, ''),
        realPath: sub ? join(base, normalize(join('/', sub))) : base,
      };
    })
    .toSorted((a, b) => b.mountPath.length - a.mountPath.length);
}
