import { dirname } from 'node:path/posix';
import type { EnvVar, Volume, VolumeMount } from '@shoal/api';
import { digestOf } from '@shoal/core';

/** Something a worker reads or writes, by URL, and the variable that tells it where. */
export interface StorageRequest {
  readonly env: string;
  /** Several URLs become one value, joined by `;`. */
  readonly urls: readonly string[];
  /** Fetch remote content before the worker starts; otherwise a remote URL is passed on as it is. */
  readonly download: boolean;
}

export interface Storage {
  readonly env: readonly EnvVar[];
  readonly volumes: readonly Volume[];
  readonly mounts: readonly VolumeMount[];
  /** `src dst` pairs for the storage initializer; empty when nothing is remote. */
  readonly downloads: readonly string[];
}

export const DATA_PATH_PREFIX = '/home/data';
const DOWNLOADS = '/downloads';
const DOWNLOAD_VOLUME = 'sedna-storage-initializer';

/** Volume name made of a host path: `[a-z0-9-]`, at most 63 characters, one name for one path. */
export function volumeName(path: string): string {
  const plain = path.slice(1).replaceAll('/', '-');
  if (/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(plain) && !path.slice(1).includes('-'))
    return plain;
  // Anything that had to be changed gets a hash of the path: two folders never share a name.
  const name = path
    .toLowerCase()
    .replace(/[^a-z0-9-]/g, '-')
    .replace(/^-+/, '')
    .slice(0, 54);
  return `${name === '' ? 'root' : name.replace(/-+$/, '')}-${digestOf(path).slice(7, 15)}`;
}

type Placed = {
  readonly value: string;
  readonly hostDir?: string;
  readonly download?: readonly [string, string];
};

function place(url: string, download: boolean): Placed {
  if (url.startsWith('blob:')) {
    const folder = `${DOWNLOADS}/blobs`;
    const value = `${folder}/${url.slice('blob:'.length).replace(':', '-')}`;
    return { value, download: [url, folder] };
  }
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(url)?.[1]?.toLowerCase();
  if (scheme === undefined) {
    const path = url.startsWith('/') ? url : `/${url}`;
    return { value: `${DATA_PATH_PREFIX}${path}`, hostDir: dirname(path) };
  }
  if (!download || (scheme !== 's3' && scheme !== 'http' && scheme !== 'https'))
    return { value: url };
  const rest = url.slice(scheme.length + 3).replace(/[?#].*$/, '');
  const value = `${DOWNLOADS}/${rest}`;
  return { value, download: [url, dirname(value)] };
}

/**
 * Turns URLs into mounts and environment, by the contract's rules (§2.7): host paths are mounted
 * by their parent folder under `/home/data`, remote content is fetched to `/downloads`.
 */
export function injectStorage(requests: readonly StorageRequest[]): Storage {
  const env: EnvVar[] = [];
  const hostDirs = new Set<string>();
  const downloads: string[] = [];
  for (const { env: name, urls, download } of requests) {
    const placed = urls.map((u) => place(u, download));
    env.push({ name, value: placed.map((p) => p.value).join(';') });
    for (const p of placed) {
      if (p.hostDir !== undefined) hostDirs.add(p.hostDir);
      if (p.download) downloads.push(...p.download);
    }
  }
  const volumes: Volume[] = [...hostDirs].map((path) => ({
    name: volumeName(path),
    hostPath: { path, type: 'Directory' },
  }));
  const mounts: VolumeMount[] = [...hostDirs].map((path) => ({
    name: volumeName(path),
    mountPath: `${DATA_PATH_PREFIX}${path}`,
  }));
  if (hostDirs.size > 0) env.push({ name: 'DATA_PATH_PREFIX', value: DATA_PATH_PREFIX });
  if (downloads.length > 0) {
    volumes.push({ name: DOWNLOAD_VOLUME, emptyDir: {} });
    mounts.push({ name: DOWNLOAD_VOLUME, mountPath: DOWNLOADS, readOnly: true });
  }
  return { env, volumes, mounts, downloads };
}
