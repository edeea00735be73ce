import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { type JsonObject, messageOf, seededRandom } from '@shoal/core';
import { digitData } from '@shoal/datasets';
import { createJoinToken } from '@shoal/global-manager';
import { OnnxEstimator } from '@shoal/lib';
import { join as joinCloud, writeIdentity } from '@shoal/local-controller';
import { dense, flatten, relu, sequential } from '@shoal/training';
import { parseAllDocuments } from 'yaml';
import { ClusterFixture } from '../cluster-fixture.ts';
import { has, type Outcome } from './outcome.ts';

const NAME =
  'joint-inference/digits at an edge in a network namespace: one connection is its only way out';
const ROOT = join(import.meta.dirname, '../..');
const NODE = 'isolated-1';

/** The machine in the namespace, asked line by line. */
class Machine {
  readonly #process: ChildProcessByStdio<Writable, Readable, null>;
  readonly #answers: ((line: string) => void)[] = [];
  readonly ready: Promise<unknown>;

  constructor(machine: object) {
    const inside = join(import.meta.dirname, 'isolated-edge-inside.ts');
    const args = ['--net', process.execPath, inside, JSON.stringify(machine)];
    this.#process = spawn('unshare', args, { stdio: ['pipe', 'pipe', 'ignore'] });
    this.#process.on('exit', () => {
      for (const answer of this.#answers.splice(0)) answer('{"status":0,"body":"it has ended"}');
    });
    createInterface({ input: this.#process.stdout }).on('line', (line) =>
      this.#answers.shift()?.(line),
    );
    this.ready = this.#next();
  }

  async #next(): Promise<unknown> {
    return JSON.parse(await new Promise<string>((resolve) => this.#answers.push(resolve)));
  }

  async ask(question: object): Promise<{ status: number; body: string }> {
    const answer = this.#next();
    this.#process.stdin.write(`${JSON.stringify(question)}\n`);
    return (await answer) as { status: number; body: string };
  }

  async stop(): Promise<void> {
    this.#process.stdin.end();
    await Promise.race([once(this.#process, 'exit'), new Promise((r) => setTimeout(r, 5_000))]);
    this.#process.kill('SIGKILL');
  }
}

interface Way {
  readonly path: string;
  readonly most: () => number;
  readonly close: () => void;
}

/** The one way out: a socket in the file system that leads to the global manager. */
async function wayOut(folder: string, edgeLink: string): Promise<Way> {
  const [host = '', port = '0'] = edgeLink.split(':');
  const path = join(folder, 'way-out.sock');
  let [now, most] = [0, 0];
  const server = createServer((socket) => {
    most = Math.max(most, ++now);
    const up = connect(Number(port), host);
    for (const end of [socket, up]) end.on('error', () => undefined);
    socket.on('close', () => {
      now--;
      up.destroy();
    });
    up.on('close', () => socket.destroy());
    socket.pipe(up).pipe(socket);
  });
  await once(server.listen(path), 'listening');
  return { path, most: () => most, close: () => server.close() };
}

async function trainModels(c: ClusterFixture): Promise<{ little: string; test: JsonObject[] }> {
  const { train, test } = await digitData('generated', { train: 2_000, test: 60 });
  const model = async (path: string, width: number, epochs: number): Promise<void> => {
    const layers = [flatten(), dense(width), relu(), dense(10)];
    const bytes = sequential({ input: [1, 28, 28], layers, random: seededRandom(1) });
    const estimator = new OnnxEstimator({ model: bytes, epochs, threads: 1 });
    await estimator.train(train);
    mkdirSync(dirname(path), { recursive: true });
    await estimator.save(path);
    await estimator.close();
  };
  const little = join(c.folder, 'little.onnx');
  await model(little, 16, 6);
  await model(c.path('cloud-1', '/models/digits/big.onnx'), 128, 12);
  const pixels = test.inputs as Float32Array;
  const rows = Array.from({ length: test.size }, (_, i) => ({
    label: Number(test.labels[i]),
    data: [...pixels.subarray(i * 784, (i + 1) * 784)],
  }));
  return { little, test: rows };
}

/** The example's own manifest, with its edge on the isolated machine and the cloud through the link. */
function manifest(): JsonObject[] {
  const text = readFileSync(join(ROOT, 'examples/joint-inference/digits/manifest.yaml'), 'utf8');
  const documents = parseAllDocuments(text).map((d) => d.toJS() as JsonObject);
  for (const { kind, spec } of documents as { kind: string; spec: Record<string, JsonObject> }[])
    if (kind === 'JointInferenceService') {
      Object.assign(spec, { cloudAccess: 'relay' });
      const template = spec['edgeWorker']?.['template'] as { spec: JsonObject };
      Object.assign(template.spec, { nodeName: NODE });
    }
  return documents;
}

async function workerEnvironment(c: ClusterFixture): Promise<Record<string, string>> {
  const found = await c.until('the edge worker', async () =>
    c.get('Deployment', 'digits-deployment-edge'),
  );
  const { template } = found.spec as {
    template: { spec: { containers: { env: { name: string; value?: string }[] }[] } };
  };
  const env = template.spec.containers[0]?.env ?? [];
  return Object.fromEntries(
    env.flatMap(({ name, value }) =>
      value === undefined ? [] : [[name, value.replaceAll('$(HOST_IP)', '127.0.0.1')]],
    ),
  );
}

interface Result {
  readonly label: number;
  readonly edgeLabel: number;
  readonly source: string;
  readonly hard: boolean;
}

async function predict(machine: Machine, rows: readonly JsonObject[]): Promise<Result[]> {
  const body = JSON.stringify({ data: rows.map((r) => r['data']) });
  const url = 'http://127.0.0.1:8080/predict';
  for (let attempt = 0; ; attempt++) {
    const answer = await machine.ask({ do: 'fetch', url, body });
    if (answer.status === 200) return (JSON.parse(answer.body) as { result: Result[] }).result;
    if (attempt > 100) throw new Error(`no answer: ${answer.status} ${answer.body}`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

function expect(isSo: boolean, what: string): void {
  if (!isSo) throw new Error(what);
}

async function example(c: ClusterFixture): Promise<string> {
  const { little, test } = await trainModels(c);
  await c.client.request('POST', '/api/v1/nodes', { metadata: { name: NODE } });
  await c.apply(...manifest());
  const key = readFileSync(join(c.layout.managerDir, 'fleet.key'), 'utf8').trim();
  const ca = readFileSync(join(c.layout.managerDir, 'edge-link-ca.json'), 'utf8');
  const token = createJoinToken(key, {
    node: NODE,
    authority: (JSON.parse(ca) as { certificate: string }).certificate,
    nowMs: Date.now(),
    validForMs: 60_000,
    server: c.cluster.state.fleet,
  });
  const { identity } = await joinCloud(token);
  const dataDir = join(c.folder, NODE);
  const tlsFile = join(dataDir, 'identity.json');
  writeIdentity(tlsFile, identity);
  const way = await wayOut(c.folder, c.cluster.state.edgeLink);
  const machine = new Machine({
    out: way.path,
    controller: {
      entry: join(ROOT, 'local-controller/src/operator/main.ts'),
      env: {
        GM_ADDRESS: '127.0.0.1:9000',
        NODENAME: NODE,
        ROOTFS_MOUNT_DIR: join(dataDir, 'rootfs'),
        BIND_ADDRESS: '127.0.0.1',
        SHOAL_LC_DATA_DIR: dataDir,
        SHOAL_LC_TLS_FILE: tlsFile,
      },
    },
    worker: {
      command: [process.execPath, join(ROOT, 'examples/joint-inference/digits/edge.ts')],
      env: { ...(await workerEnvironment(c)), MODEL_URL: little, CLOUD_FALLBACK: 'edge-result' },
    },
  });
  try {
    await machine.ready;
    const managerUrl = `${c.cluster.state.managerUrl}/healthz`;
    const reached = await machine.ask({ do: 'fetch', url: managerUrl });
    expect(reached.status === 0, `it can reach ${managerUrl}`);
    let results: Result[] = [];
    for (let attempt = 0; attempt < 50; attempt++) {
      results = await predict(machine, test);
      if (results.some((r) => r.source === 'cloud')) break;
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
    const share = (of: (r: Result, i: number) => boolean): number =>
      results.filter(of).length / results.length;
    const [edge, joint] = [
      share((r, i) => r.edgeLabel === test[i]?.['label']),
      share((r, i) => r.label === test[i]?.['label']),
    ];
    const uploads = share((r) => r.source === 'cloud');
    expect(uploads > 0 && uploads < 1, `uploads ${uploads}`);
    expect(joint > edge, `joint ${joint}, edge only ${edge}`);
    expect(way.most() === 1, `${way.most()} connections at a time`);
    await machine.ask({ do: 'cut' });
    const alone = await predict(machine, test);
    expect(
      alone.every((r) => r.source === 'edge') && alone.some((r) => r.hard),
      'without its connection the edge does not answer by itself',
    );
    return `edge only ${(edge * 100).toFixed(0)} %, joint ${(joint * 100).toFixed(0)} %, ${(uploads * 100).toFixed(0)} % went up, 1 connection`;
  } finally {
    await machine.stop();
    way.close();
  }
}

/** The joint inference example with an edge whose only way out is its one connection. */
export async function isolatedEdge(): Promise<Outcome[]> {
  if (!has('unshare', '--net', 'ip', 'link', 'set', 'lo', 'up'))
    return [
      { name: NAME, result: 'skipped', detail: 'network namespaces need root, unshare and ip' },
    ];
  const c = await ClusterFixture.start(1);
  try {
    return [{ name: NAME, result: 'passed', detail: await example(c) }];
  } catch (error) {
    return [{ name: NAME, result: 'failed', detail: messageOf(error) }];
  } finally {
    await c.stop();
  }
}

if (import.meta.main) {
  for (const outcome of await isolatedEdge()) console.log(outcome);
  process.exit(0);
}
