import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';
import { messageOf, ShoalError } from '@shoal/core';
import { DATASETS, type DatasetEntry, type DatasetFile } from './manifest.ts';

export interface Located {
  readonly entry: DatasetEntry;
  /** Folder that holds every file, each checked against its sha256. */
  readonly folder: string;
}

/** @throws ShoalError `not_found` listing the names there are. */
export function datasetEntry(name: string): DatasetEntry {
  const entry = DATASETS.find((d) => d.name === name);
  if (entry) return entry;
  throw new ShoalError(
    'not_found',
    `no data set "${name}"; there are: ${DATASETS.map((d) => d.name).join(', ')}`,
  );
}

/** Folders looked through: `SHOAL_DATASETS` (a path list), then the cache. */
export function searchFolders(
  source: Readonly<Record<string, string | undefined>> = process.env,
): string[] {
  const listed = (source['SHOAL_DATASETS'] ?? '').split(delimiter).filter((f) => f !== '');
  return [...listed, cacheFolder(source)];
}

export function cacheFolder(
  source: Readonly<Record<string, string | undefined>> = process.env,
): string {
  return (
    source['SHOAL_CACHE'] ??
    join(source['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'shoal', 'datasets')
  );
}

function holds(folder: string, file: DatasetFile): boolean {
  const path = join(folder, file.name);
  return (
    existsSync(path) &&
    createHash('sha256').update(readFileSync(path)).digest('hex') === file.sha256
  );
}

/** The data set on this machine; undefined when it is not here whole. */
export function locateDataset(
  name: string,
  folders: readonly string[] = searchFolders(),
): Located | undefined {
  const entry = datasetEntry(name);
  const folder = folders
    .map((f) => join(f, name))
    .find((f) => entry.files.every((file) => holds(f, file)));
  return folder === undefined ? undefined : { entry, folder };
}

async function download(file: DatasetFile, folder: string): Promise<void> {
  let bytes: Buffer;
  try {
    const response = await fetch(file.url, { signal: AbortSignal.timeout(120_000) });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    bytes = Buffer.from(await response.arrayBuffer());
  } catch (error) {
    throw new ShoalError(
      'unavailable',
      `${file.url} cannot be downloaded: ${messageOf(error)}. Put the file into a folder named in SHOAL_DATASETS instead`,
      { cause: error },
    );
  }
  const digest = createHash('sha256').update(bytes).digest('hex');
  if (digest !== file.sha256) {
    throw new ShoalError(
      'data_corrupt',
      `${file.url} has sha256 ${digest}, expected ${file.sha256}; nothing was kept`,
    );
  }
  const path = join(folder, file.name);
  writeFileSync(`${path}.part`, bytes);
  renameSync(`${path}.part`, path);
}

/** Finds a data set, or downloads it into the cache and checks it. */
export async function pullDataset(name: string): Promise<Located> {
  const here = locateDataset(name);
  if (here) return here;
  const entry = datasetEntry(name);
  const folder = join(cacheFolder(), name);
  mkdirSync(folder, { recursive: true });
  for (const file of entry.files) if (!holds(folder, file)) await download(file, folder);
  return { entry, folder };
}
