import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { has, run } from './outcome.ts';

/** An S3 server of somebody else's, running on loopback. */
export interface S3Server {
  readonly name: string;
  readonly endpoint: URL;
  readonly accessKey: string;
  readonly secretKey: string;
  readonly stop: () => void;
}

const KEYS = { accessKey: 'shoal-access', secretKey: 'shoal-very-secret-key' };
const MOTO = `
import sys, time
from moto.server import ThreadedMotoServer
ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False).start()
time.sleep(600)`;
const CACHE = join(homedir(), '.cache/shoal');
const CACHED = join(CACHE, 'minio');
const BUILD_MS = 600_000;

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}

async function answers(url: URL): Promise<boolean> {
  for (let i = 0; i < 200; i++) {
    const is = await fetch(url).then(
      () => true,
      () => false,
    );
    if (is) return true;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return false;
}

async function started(
  name: string,
  child: ChildProcess,
  at: { readonly port: number; readonly dir: string },
): Promise<S3Server> {
  const endpoint = new URL(`http://127.0.0.1:${at.port}`);
  const stop = (): void => {
    child.kill('SIGKILL');
    rmSync(at.dir, { recursive: true, force: true });
  };
  if (await answers(endpoint)) return { name, endpoint, ...KEYS, stop };
  stop();
  throw new Error(`${name} did not start`);
}

/** moto's server; undefined when it is not here. */
export async function startMoto(): Promise<S3Server | undefined> {
  if (!has('python3', '-c', 'import moto.server, flask')) return undefined;
  const port = await freePort();
  const dir = mkdtempSync(join(tmpdir(), 'shoal-moto-'));
  const child = spawn('python3', ['-c', MOTO, String(port)], { stdio: 'ignore' });
  return await started('moto', child, { port, dir });
}

/**
 * Where MinIO is: on the path, or built by Go into a folder that stays (minutes the first time).
 *
 * @returns Undefined, at once or after the build, when there is none.
 */
export function findMinio(): Promise<string | undefined> {
  if (has('minio', '--version')) return Promise.resolve('minio');
  if (existsSync(CACHED)) return Promise.resolve(CACHED);
  if (!has('go', 'version')) return Promise.resolve(undefined);
  mkdirSync(CACHE, { recursive: true });
  const into = mkdtempSync(join(CACHE, 'build-'));
  const child = spawn('nice', ['go', 'install', 'github.com/minio/minio@latest'], {
    env: { ...process.env, GOBIN: into },
    stdio: 'ignore',
    timeout: BUILD_MS,
  });
  return new Promise((resolve) => {
    child.on('error', () => resolve(undefined));
    child.on('close', (code) => {
      if (code === 0) renameSync(join(into, 'minio'), CACHED);
      rmSync(into, { recursive: true, force: true });
      resolve(code === 0 ? CACHED : undefined);
    });
  });
}

/** A MinIO server of its own. */
export async function startMinio(program: string): Promise<S3Server> {
  const port = await freePort();
  const dir = mkdtempSync(join(tmpdir(), 'shoal-minio-'));
  const { stdout } = run(program, ['--version']);
  const child = spawn(program, ['server', dir, '--address', `127.0.0.1:${port}`, '--quiet'], {
    stdio: 'ignore',
    env: {
      ...process.env,
      MINIO_ROOT_USER: KEYS.accessKey,
      MINIO_ROOT_PASSWORD: KEYS.secretKey,
      MINIO_BROWSER: 'off',
    },
  });
  const version = /DEVELOPMENT\S*|RELEASE\S*/.exec(stdout)?.[0] ?? '';
  return await started(`MinIO ${version}`.trim(), child, { port, dir });
}
