import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { has, type Outcome, run } from './outcome.ts';

const SERVER = `
import sys, time
from moto.server import ThreadedMotoServer
ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False).start()
time.sleep(120)`;
const FILL = `
import sys, boto3
s3 = boto3.client("s3", endpoint_url=sys.argv[1], aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1")
s3.create_bucket(Bucket="models"); s3.put_object(Bucket="models", Key="digits/model.onnx", Body=b"weights" * 300000)`;

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}

async function answers(url: string): Promise<boolean> {
  for (let i = 0; i < 100; i++) {
    if (
      await fetch(url).then(
        () => true,
        () => false,
      )
    )
      return true;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return false;
}

/** The storage initializer fetches a model from a second S3 implementation, as a pod's init container does. */
export async function s3Download(): Promise<Outcome[]> {
  const name = 'a model is fetched from S3 with the credentials of a Secret';
  if (!has('python3', '-c', 'import moto.server, boto3, flask'))
    return [{ name, result: 'skipped', detail: 'moto is not here (pip install moto[server])' }];
  const dir = mkdtempSync(join(tmpdir(), 'shoal-s3-'));
  const port = await freePort();
  const endpoint = `http://127.0.0.1:${port}`;
  let server: ChildProcess | undefined;
  try {
    server = spawn('python3', ['-c', SERVER, String(port)], { stdio: 'ignore' });
    if (!(await answers(endpoint))) throw new Error('moto did not start');
    const filled = run('python3', ['-c', FILL, endpoint]);
    if (filled.code !== 0) throw new Error(filled.stderr.slice(-300));
    const env = { S3_ENDPOINT_URL: endpoint, ACCESS_KEY_ID: 'key', SECRET_ACCESS_KEY: 'secret' };
    const fetchFrom = (source: string): ReturnType<typeof run> =>
      run(process.execPath, ['workers/src/storage-initializer.ts', source, dir], { env });
    const good = fetchFrom('s3://models/digits/model.onnx');
    const bytes = good.code === 0 ? readFileSync(join(dir, 'model.onnx')).length : 0;
    const missing = fetchFrom('s3://models/digits/none.onnx');
    const leaks = `${good.stdout}${good.stderr}${missing.stderr}`.includes('secret');
    return [
      {
        name,
        result: bytes === 2_100_000 && !leaks ? 'passed' : 'failed',
        detail: `${bytes} bytes; ${good.stderr.slice(-300)}`.trim(),
      },
      {
        name: 'a missing S3 object ends the initializer with its address and a code',
        result:
          missing.code !== 0 && missing.stderr.includes('s3://models/digits/none.onnx')
            ? 'passed'
            : 'failed',
        detail: missing.stderr.trim().slice(-300),
      },
    ];
  } catch (error) {
    return [{ name, result: 'failed', detail: String(error) }];
  } finally {
    server?.kill('SIGKILL');
    rmSync(dir, { recursive: true, force: true });
  }
}
