import { createWriteStream, mkdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { fromNode, readConfig, type SettingTable, ShoalError, text } from '@shoal/core';
import { Client } from 'minio';
import { runWorker } from './process.ts';

interface StorageEnvironment {
  readonly S3_ENDPOINT_URL: string;
  readonly ACCESS_KEY_ID: string;
  readonly SECRET_ACCESS_KEY: string;
}

const SETTINGS: SettingTable<StorageEnvironment> = {
  S3_ENDPOINT_URL: text('S3 endpoint', ''),
  ACCESS_KEY_ID: text('S3 access key', ''),
  SECRET_ACCESS_KEY: text('S3 secret key', ''),
};

async function fromHttp(url: URL, file: string): Promise<void> {
  const response = await fetch(url).catch((error: unknown) => {
    throw new ShoalError('unavailable', `${url.origin} cannot be reached`, { cause: error });
  });
  if (!response.ok || !response.body)
    throw new ShoalError(
      response.status === 404 ? 'not_found' : 'unavailable',
      `${url.origin}${url.pathname} answers HTTP ${response.status}`,
    );
  await pipeline(Readable.fromWeb(response.body), createWriteStream(file));
}

async function fromS3(url: URL, file: string): Promise<void> {
  const env = readConfig(SETTINGS, process.env);
  if (env.S3_ENDPOINT_URL === '')
    throw new ShoalError(
      'invalid_argument',
      `${url.href} needs a Secret with the annotation s3-endpoint; set credentialName`,
    );
  const endpoint = new URL(env.S3_ENDPOINT_URL);
  const client = new Client({
    endPoint: endpoint.hostname,
    useSSL: endpoint.protocol === 'https:',
    accessKey: env.ACCESS_KEY_ID,
    secretKey: env.SECRET_ACCESS_KEY,
    ...(endpoint.port ? { port: Number(endpoint.port) } : {}),
  });
  await client.fGetObject(url.hostname, url.pathname.slice(1), file);
}

/** Fetches `src dst src dst …` before a worker starts: each source into its destination folder. */
async function download(source: string, folder: string): Promise<string> {
  const url = new URL(source);
  const file = join(folder, basename(url.pathname));
  mkdirSync(folder, { recursive: true });
  try {
    if (url.protocol === 's3:') await fromS3(url, file);
    else await fromHttp(url, file);
  } catch (error) {
    throw fromNode(error, `fetching ${url.protocol}//${url.host}${url.pathname}`);
  }
  return file;
}

await runWorker('storage-initializer', async () => {
  const words = process.argv.slice(2);
  if (words.length === 0 || words.length % 2 === 1)
    throw new ShoalError('invalid_argument', 'arguments must be pairs: SOURCE FOLDER …');
  const files: string[] = [];
  for (let i = 0; i < words.length; i += 2)
    files.push(await download(words[i] ?? '', words[i + 1] ?? ''));
  return { files: files.length };
});
