import { spawn } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { JsonObject } from '@shoal/core';
import { layoutOf } from 'shoal';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { alive, ClusterFixture, template } from './cluster-fixture.ts';

let c: ClusterFixture;
beforeAll(async () => {
  c = await ClusterFixture.start(1);
});
afterAll(async () => await c.stop());

const MAIN = join(import.meta.dirname, '../cli/src/main.ts');
const sedna = (kind: string, name: string, spec: JsonObject): JsonObject => ({
  apiVersion: 'sedna.io/v1alpha1',
  kind,
  metadata: { name },
  spec,
});

/** A train worker that takes a while and then reports, in plain JavaScript: the contract is HTTP. */
const SLOW_TRAINER = `
  const fs = require('fs'), path = require('path');
  setTimeout(async () => {
    const file = path.join(process.env.MODEL_URL, 'model.onnx');
    fs.writeFileSync(file, 'trained');
    const url = file.slice(process.env.DATA_PATH_PREFIX.length);
    const body = { name: process.env.WORKER_NAME, namespace: process.env.NAMESPACE, ownerName: process.env.JOB_NAME, ownerKind: 'incrementallearningjob', kind: 'train', status: 'completed', results: [{ format: 'onnx', url, metrics: {} }] };
    for (;;) {
      try { await fetch(process.env.LC_SERVER + '/sedna/workers/' + process.env.WORKER_NAME + '/info', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }); return; }
      catch { await new Promise((r) => setTimeout(r, 200)); }
    }
  }, 4000)`;
const sleeper = ['node', '-e', 'setInterval(() => {}, 1000)'];

async function startJob(name: string): Promise<void> {
  writeFileSync(c.path('cloud-1', `/models/${name}.onnx`), 'x');
  writeFileSync(c.path('cloud-1', `/data/${name}.txt`), '');
  const trigger = {
    checkPeriodSeconds: 1,
    condition: { operator: '>', threshold: 1, metric: 'num_of_samples' },
  };
  await c.apply(
    sedna('Dataset', name, { url: `/data/${name}.txt`, format: 'txt', nodeName: 'cloud-1' }),
    sedna('Model', name, { url: `/models/${name}.onnx`, format: 'onnx' }),
    sedna('IncrementalLearningJob', name, {
      dataset: { name, trainProb: 0.5 },
      initialModel: { name },
      outputDir: `/output/${name}`,
      trainSpec: { template: template('cloud-1', ['node', '-e', SLOW_TRAINER]), trigger },
      evalSpec: { template: template('cloud-1', sleeper) },
      deploySpec: {
        model: { name },
        trigger,
        hardExampleMining: { name: 'IBT' },
        template: template('edge-1', sleeper),
      },
    }),
  );
  writeFileSync(c.path('edge-1', `/models/${name}.onnx`), 'x');
  appendFileSync(
    c.path('cloud-1', `/data/${name}.txt`),
    Array.from({ length: 10 }, (_, i) => `sample ${i}\n`).join(''),
  );
  await c.until('training to run', async () => (await c.condition('il', name))?.type === 'Running');
}

async function expectOneRound(name: string): Promise<void> {
  const job = await c.until('evaluation', async () => {
    const found = await c.get('il', name);
    return found?.status?.conditions?.some((x) => x.stage === 'Eval' && x.type === 'Running')
      ? found
      : undefined;
  });
  const log = job.status?.conditions?.map((x) => `${x.stage} ${x.type}`) ?? [];
  expect(log.filter((l) => l === 'Train Completed')).toHaveLength(1);
  expect(log.filter((l) => l === 'Train Starting').length).toBeLessThanOrEqual(1);
  expect(job.status?.round).toBe(1);
  expect((await c.pods(`${name}-train-`)).length).toBe(1);
  await c.resources.remove('il', 'default', name);
}

test('global manager killed -9 while a stage runs: it comes back, the stage is neither lost nor done twice', async () => {
  await startJob('gm');
  const before = c.pidOf('global-manager');
  process.kill(before, 'SIGKILL');
  await c.until(
    'the manager to return',
    async () =>
      await Promise.resolve(
        c.cluster.processes.some(
          (p) => p.name === 'global-manager' && p.pid !== undefined && p.pid !== before,
        ),
      ),
  );
  await expectOneRound('gm');
});

test('local controller killed -9 while a stage runs: it comes back and knows where it was', async () => {
  await startJob('lc');
  const before = c.pidOf('local-controller-cloud-1');
  process.kill(before, 'SIGKILL');
  await c.until(
    'it to return',
    async () =>
      await Promise.resolve(
        c.cluster.processes.some(
          (p) => p.name === 'local-controller-cloud-1' && p.pid !== undefined && p.pid !== before,
        ),
      ),
  );
  await expectOneRound('lc');
});

test('API server killed -9: workers go on, and nothing that was acknowledged is lost', async () => {
  await c.apply({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'steady' },
    ...template('edge-1', ['node', '-e', 'console.log(process.pid); setInterval(() => {}, 1000)']),
  });
  await c.until('the pod', async () => (await c.get('pod', 'steady'))?.status?.phase === 'Running');
  const pid = await c.until('its pid', async () => {
    let log = '';
    await c.client.stream('/api/v1/namespaces/default/pods/steady/log', (chunk) => {
      log += chunk.toString();
    });
    return Number(log.trim());
  });
  const before = c.pidOf('api-server');
  process.kill(before, 'SIGKILL');
  const pod = await c.until('the server and the pod', async () => await c.get('pod', 'steady'));
  expect(alive(pid)).toBe(true);
  expect(pod.status?.containerStatuses?.[0]?.restartCount).toBe(0);
  await c.until('nodes to stay ready', async () =>
    (
      (await c.resources.get('node', '', 'edge-1')) as {
        status: { conditions: { type: string; status: string }[] };
      }
    ).status.conditions.some((x) => x.type === 'Ready' && x.status === 'True'),
  );
});

test('node agent killed -9: no process is left over, the pod runs again', async () => {
  const first = await c.until('the pod', async () =>
    (await c.get('pod', 'steady'))?.status?.phase === 'Running'
      ? await c.get('pod', 'steady')
      : undefined,
  );
  const restarts = first.status?.containerStatuses?.[0]?.restartCount ?? 0;
  process.kill(c.pidOf('node-agent-edge-1'), 'SIGKILL');
  await c.until(
    'the pod to run again',
    async () =>
      ((await c.get('pod', 'steady'))?.status?.containerStatuses?.[0]?.restartCount ?? 0) >
      restarts,
  );
  const running = (): string[] =>
    readdirSync('/proc')
      .filter((p) => /^\d+$/.test(p))
      .filter((p) => {
        try {
          const text = readFileSync(`/proc/${p}/cmdline`, 'utf8');
          return (
            text.includes('console.log(process.pid); setInterval') &&
            readFileSync(`/proc/${p}/environ`, 'utf8').includes('HOSTNAME=steady')
          );
        } catch {
          return false;
        }
      });
  await c.until(
    'exactly one process of the pod',
    async () => await Promise.resolve(running().length === 1),
  );
  await c.resources.remove('pod', 'default', 'steady');
});

/** Runs the command line and collects what it prints. */
function shoal(
  folder: string,
  ...args: string[]
): { pid: number; done: Promise<{ code: number | null; output: string }>; interrupt: () => void } {
  const child = spawn(process.execPath, [MAIN, '--folder', folder, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const done = new Promise<{ code: number | null; output: string }>((resolve) =>
    child.on('close', (code) => resolve({ code, output })),
  );
  return { pid: child.pid ?? 0, done, interrupt: () => child.kill('SIGINT') };
}

/** Processes whose environment or command line names a folder. */
function processesOf(folder: string): string[] {
  return readdirSync('/proc')
    .filter((p) => /^\d+$/.test(p) && Number(p) !== process.pid)
    .filter((p) => {
      try {
        return (
          readFileSync(`/proc/${p}/environ`, 'utf8').includes(folder) ||
          readFileSync(`/proc/${p}/cmdline`, 'utf8').includes(folder)
        );
      } catch {
        return false;
      }
    });
}

test('a second "shoal up" in the same folder says who holds it and what to do', async () => {
  const { code, output } = await shoal(c.folder, 'up').done;
  expect(code).toBe(1);
  expect(output).toMatch(
    new RegExp(`already running in .*process ${process.pid}.*shoal status.*shoal down`, 's'),
  );
});

test('Ctrl-C half-way through starting leaves no process behind, and the folder can be used again', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'shoal-ctrlc-'));
  const run = shoal(folder, 'up');
  await c.until('processes', async () => await Promise.resolve(processesOf(folder).length > 2));
  run.interrupt();
  await run.done;
  await c.until(
    'all of them to end',
    async () => await Promise.resolve(processesOf(folder).length === 0),
    20_000,
  );
  expect(existsSync(layoutOf(folder).lockFile)).toBe(false);
  rmSync(folder, { recursive: true });
});

test('the supervisor killed -9: everything it started ends, and the next "up" takes the folder over', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'shoal-killed-'));
  const run = shoal(folder, 'up');
  await c.until(
    'the cluster',
    async () => await Promise.resolve(existsSync(layoutOf(folder).stateFile)),
    60_000,
  );
  process.kill(run.pid, 'SIGKILL');
  await run.done;
  await c.until(
    'all of it to end',
    async () => await Promise.resolve(processesOf(folder).length === 0),
    30_000,
  );
  const again = shoal(folder, 'up', '--detach');
  expect((await again.done).output).toMatch(/The cluster is up/);
  expect((await shoal(folder, 'down').done).output).toMatch(/has ended/);
  await c.until(
    'the end',
    async () => await Promise.resolve(processesOf(folder).length === 0),
    20_000,
  );
  rmSync(folder, { recursive: true });
});

test('a port in use: the worker’s log names address and port, the pod shows the crash', async () => {
  const blocker = createServer();
  const port = await new Promise<number>((resolve) =>
    blocker.listen(0, '0.0.0.0', () => resolve((blocker.address() as { port: number }).port)),
  );
  writeFileSync(c.path('edge-1', '/models/none.onnx'), '');
  const listen = `const s = require('http').createServer(); s.listen(${port}, '0.0.0.0')`;
  await c.apply({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'port' },
    ...template('edge-1', ['node', '-e', listen]),
  });
  const pod = await c.until('the crash', async () => {
    const found = await c.get('pod', 'port');
    return (found?.status?.containerStatuses?.[0]?.restartCount ?? 0) > 0 ? found : undefined;
  });
  let log = '';
  await c.client.stream(
    `/api/v1/namespaces/default/pods/${pod.metadata.name}/log?previous=true`,
    (chunk) => {
      log += chunk.toString();
    },
  );
  expect(log).toMatch(new RegExp(`EADDRINUSE.*${port}`));
  await new Promise((resolve) => blocker.close(resolve));
  await c.until(
    'the pod to run, now that the port is free',
    async () =>
      (await c.get('pod', 'port'))?.status?.containerStatuses?.[0]?.state['running'] !== undefined,
    40_000,
  );
  await c.resources.remove('pod', 'default', 'port');
});

test('a port of the manager or of a controller in use: the process says which, and ends', async () => {
  const { managerUrl } = c.cluster.state;
  const manager = new URL(managerUrl);
  const start = (entry: string, environment: Record<string, string>): Promise<string> => {
    const child = spawn(process.execPath, [join(import.meta.dirname, '..', entry)], {
      env: { ...process.env, ...environment },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
    return new Promise((resolve) => child.on('close', (code) => resolve(`${code}: ${said}`)));
  };
  const data = mkdtempSync(join(tmpdir(), 'shoal-port-'));
  const kubeconfig = { SHOAL_GM_KUBECONFIG: c.layout.kubeconfig, SHOAL_GM_DATA_DIR: data };
  const taken = await start('global-manager/src/operator/main.ts', {
    ...kubeconfig,
    SHOAL_GM_HTTP_ADDRESS: manager.hostname,
    SHOAL_GM_HTTP_PORT: manager.port,
  });
  expect(taken).toMatch(
    new RegExp(`^64: .*global manager cannot listen on ${manager.host}: .*EADDRINUSE`),
  );
  const node = (await c.resources.get('node', '', 'edge-1')) as {
    status: { addresses: { address: string }[] };
  };
  const address = node.status.addresses[0]?.address ?? '';
  const controller = {
    GM_ADDRESS: '127.0.0.1:1',
    NODENAME: 'edge-1',
    SHOAL_LC_DATA_DIR: data,
    SHOAL_LC_TLS_FILE: join(c.layout.controllerDir('edge-1'), 'identity.json'),
    BIND_ADDRESS: address,
    BIND_PORT: '9100',
  };
  expect(await start('local-controller/src/operator/main.ts', controller)).toMatch(
    new RegExp(`local controller cannot listen on ${address}:9100: .*EADDRINUSE`),
  );
  expect(await start('local-controller/src/operator/main.ts', { SHOAL_LC_TYPO: '1' })).toMatch(
    /GM_ADDRESS is required[\s\S]*SHOAL_LC_TYPO is not a setting/,
  );
  rmSync(data, { recursive: true });
});

test('unknown commands, kinds and examples suggest what to do', async () => {
  expect((await shoal(c.folder, 'fly').done).output).toMatch(/unknown command.*--help/s);
  expect((await shoal(c.folder, 'run', 'nothing').done).output).toMatch(
    /no example "nothing"; there are: all, joint-inference\/digits/,
  );
  const empty = mkdtempSync(join(tmpdir(), 'shoal-none-'));
  expect((await shoal(empty, 'get', 'pods').done).output).toMatch(
    /no cluster is running in .*Start one with: shoal up/,
  );
  rmSync(empty, { recursive: true });
});
