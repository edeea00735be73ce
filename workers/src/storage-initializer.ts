import { basename, join } from 'node:path';
import { download, readConfig, real, type SettingTable, ShoalError, text } from '@shoal/core';
import { remoteSource } from '@shoal/lib';
import { runWorker } from './process.ts';

interface StorageEnvironment {
  readonly S3_ENDPOINT_URL: string;
  readonly ACCESS_KEY_ID: string;
  readonly SECRET_ACCESS_KEY: string;
  readonly LC_SERVER: string;
  readonly STORAGE_MAX_BYTES: number;
}

const SETTINGS: SettingTable<StorageEnvironment> = {
  S3_ENDPOINT_URL: text('S3 endpoint', ''),
  ACCESS_KEY_ID: text('S3 access key', ''),
  SECRET_ACCESS_KEY: text('S3 secret key', ''),
  LC_SERVER: text('URL of the local controller, for blob:', ''),
  STORAGE_MAX_BYTES: real('largest file fetched', { min: 1, max: 2 ** 50 }, 16 * 1024 ** 3),
};

/** Name of the file an address is fetched to. */
function fileName(source: string): string {
  if (source.startsWith('blob:')) return source.slice('blob:'.length).replace(':', '-');
  return basename(new URL(source).pathname);
}

// Fetches `src dst src dst …` before a worker starts: each source into its destination folder.
await runWorker('storage-initializer', async ({ signal }) => {
  const words = process.argv.slice(2);
  if (words.length === 0 || words.length % 2 === 1)
    throw new ShoalError('invalid_argument', 'arguments must be pairs: SOURCE FOLDER …');
  const env = readConfig(SETTINGS, process.env);
  const options = { maxBytes: env.STORAGE_MAX_BYTES, attempts: 8, signal };
  for (let i = 0; i < words.length; i += 2) {
    const [source = '', folder = ''] = words.slice(i, i + 2);
    await download(remoteSource(source, env), join(folder, fileName(source)), options);
  }
  return { files: words.length / 2 };
});
