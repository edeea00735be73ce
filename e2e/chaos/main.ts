import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { parseArgs } from 'node:util';
import { messageOf, seededRandom } from '@shoal/core';
import { EmbeddedCluster, layoutOf, Resources } from 'shoal';
import { FaultProxy } from './fault-proxy.ts';

const HELP = `Real processes on loopback under a bad network: datasets come, grow and go at random, devices push samples, services
come to groups of nodes and leave them, while processes are killed or stopped, disks fill up, and connections are cut, stalled,
delayed and swallowed. Then everything must be as it should be, nothing lost and nothing twice.
Full disks need root and unshare: the edges' folders are small file systems in a mount namespace of this run.

  npm run chaos -- --seconds 60 --seed 1

Writes .cache/chaos/report.md and report.json. Ends only processes it started.`;
const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    seed: { type: 'string', default: String(Date.now() % 100_000) },
    help: { type: 'boolean', default: false },
  },
});
if (values.help) {
  console.log(HELP);
  process.exit(0);
}
const NAMESPACE = 'SHOAL_CHAOS_MOUNTS';
if (process.env[NAMESPACE] === undefined && process.getuid?.() === 0) {
  const command = [process.execPath, ...process.argv.slice(1)];
  const inside = ['--mount', '--propagation', 'private'];
  if (spawnSync('unshare', [...inside, 'true']).status === 0) {
    const env = { ...process.env, [NAMESPACE]: 'private' };
    const { status } = spawnSync('unshare', [...inside, ...command], { stdio: 'inherit', env });
    process.exit(status ?? 1);
  }
}
const canFill = process.env[NAMESPACE] === 'private';
const DISK_MIB = 24;
const EDGES = ['edge-1', 'edge-2', 'edge-3'];
const CALM_MS = 150_000;
const random = seededRandom(Number(values.seed));
const folder = mkdtempSync(join(tmpdir(), 'shoal-chaos-'));
const layout = layoutOf(folder);
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const pick = <T>(items: readonly T[]): T => items[random.int(items.length)] as T;

interface Truth {
  readonly node: string;
  lines: number;
}

const truth = new Map<string, Truth>();
const counts: Record<string, number> = {};
const story: string[] = [];
const startedAt = performance.now();

function note(what: string): void {
  counts[what] = (counts[what] ?? 0) + 1;
  story.push(`${((performance.now() - startedAt) / 1_000).toFixed(1).padStart(6)} s  ${what}`);
}

const proxy = new FaultProxy();
const port = await proxy.listen();
const cluster = await startCluster();
const client = cluster.client();
const resources = new Resources(client);

/** Each edge's controller has a disk of its own, which can be full. */
function mountDisks(): void {
  for (const edge of EDGES) {
    const folderOf = layout.controllerDir(edge);
    mkdirSync(folderOf, { recursive: true });
    const options = ['-t', 'tmpfs', '-o', `size=${DISK_MIB}m`, 'chaos', folderOf];
    if (spawnSync('mount', options).status !== 0) throw new Error(`cannot mount ${folderOf}`);
  }
}

async function startCluster(): Promise<EmbeddedCluster> {
  if (canFill) mountDisks();
  // The proxy must know where the manager is before an edge connects: the first slot that is free.
  const starting = EmbeddedCluster.start({
    layout,
    edges: EDGES.length,
    linkThrough: `127.0.0.1:${port}`,
    onStep: () => undefined,
    onAddresses: (state) => {
      const [host = '', edgePort = '0'] = state.edgeLink.split(':');
      proxy.target = { host, port: Number(edgePort) };
    },
  });
  return await starting;
}

function fileOf(name: string, node: string): string {
  const path = join(layout.rootfs(node), 'data', `${name}.csv`);
  mkdirSync(dirname(path), { recursive: true });
  return path;
}

/** The API server may be down for a moment: what is wanted is asked for again. */
async function insist(body: () => Promise<unknown>): Promise<void> {
  for (let attempt = 0; attempt < 200; attempt++) {
    try {
      await body();
      return;
    } catch (error) {
      if (/not found/i.test(messageOf(error))) return;
      await sleep(250);
    }
  }
}

/** Samples that a device pushed at an edge, by the edge. */
const pushed = new Map(EDGES.map((edge) => [edge, 0]));
const pushing = new Set<string>();

function pushedName(edge: string): string {
  return `pushed-${edge}`;
}

async function applyPushed(): Promise<void> {
  for (const edge of EDGES)
    await resources.apply(
      {
        apiVersion: 'sedna.io/v1alpha1',
        kind: 'Dataset',
        metadata: { name: pushedName(edge) },
        spec: {
          url: `/data/${pushedName(edge)}.jsonl`,
          format: 'jsonl',
          nodeName: edge,
          source: { http: {} },
        },
      },
      'default',
    );
}

/** A device sends its next sample until it is taken, under one key: it must be there once. */
async function push(edge: string): Promise<void> {
  if (pushing.has(edge)) return;
  pushing.add(edge);
  const n = pushed.get(edge) ?? 0;
  pushed.set(edge, n + 1);
  const url = `http://${addresses.get(edge)}:9100/shoal/datasets/default/${pushedName(edge)}/samples`;
  for (;;) {
    const status = await fetch(url, {
      method: 'POST',
      headers: { 'Idempotency-Key': `${edge}-${n}` },
      body: JSON.stringify({ n }),
      signal: AbortSignal.timeout(2_000),
    }).then(
      (response) => response.status,
      () => 0,
    );
    if (status === 200) break;
    await sleep(200);
  }
  pushing.delete(edge);
}

/** Services on groups of nodes, and groups of nodes. */
const services = new Set<string>();
const groups = new Map<string, string>();
const IDLE = ['node', '-e', 'setInterval(() => {}, 1000)'];

async function changeService(): Promise<void> {
  const name = `s${random.int(2)}`;
  if (services.has(name)) {
    services.delete(name);
    note('service deleted');
    const path = `/apis/sedna.io/v1alpha1/namespaces/default/jointinferenceservices/${name}`;
    return await insist(async () => await client.request('DELETE', path));
  }
  services.add(name);
  note('service created');
  const containers = [{ name: 'main', image: 'none', command: IDLE }];
  const model = { name: 'm' };
  const service = {
    apiVersion: 'sedna.io/v1alpha1',
    kind: 'JointInferenceService',
    metadata: { name },
    spec: {
      cloudWorker: { model, template: { spec: { nodeName: 'cloud-1', containers } } },
      edgeWorker: {
        model,
        hardExampleMining: { name: 'EdgeOnly' },
        template: { spec: { containers } },
      },
      placement: { groups: [{ name: 'a' }, { name: 'b' }] },
    },
  };
  await insist(async () => await resources.apply(service, 'default'));
}

async function changeGroup(): Promise<void> {
  const edge = pick(EDGES);
  const group = pick(['a', 'b', '']);
  groups.set(edge, group);
  note('node changed its group');
  const body = { metadata: { labels: { 'shoal.dev/group': group === '' ? null : group } } };
  const options = { contentType: 'application/merge-patch+json' };
  await insist(async () => await client.request('PATCH', `/api/v1/nodes/${edge}`, body, options));
}

async function work(): Promise<void> {
  const aside = random.next();
  if (aside < 0.4) void push(pick(EDGES));
  else if (aside < 0.45) return await changeService();
  else if (aside < 0.5) return await changeGroup();
  const known = [...truth.keys()];
  const what = random.next();
  if (known.length < 4 || what < 0.25) {
    const name = `d${random.int(12)}`;
    const node = pick(EDGES);
    if (truth.has(name)) return;
    const lines = 1 + random.int(20);
    writeFileSync(fileOf(name, node), `x,y\n${'1,2\n'.repeat(lines)}`);
    truth.set(name, { node, lines });
    note('dataset created');
    await insist(async () => {
      await resources.apply(
        {
          apiVersion: 'sedna.io/v1alpha1',
          kind: 'Dataset',
          metadata: { name },
          spec: { url: `/data/${name}.csv`, format: 'csv', nodeName: node },
        },
        'default',
      );
    });
  } else if (what < 0.4) {
    const name = pick(known);
    truth.delete(name);
    note('dataset deleted');
    const path = `/apis/sedna.io/v1alpha1/namespaces/default/datasets/${name}`;
    await insist(async () => await client.request('DELETE', path));
  } else {
    const entry = truth.get(pick(known));
    const [name] = [...truth.entries()].find(([, t]) => t === entry) ?? [];
    if (!entry || name === undefined) return;
    appendFileSync(fileOf(name, entry.node), '3,4\n');
    entry.lines++;
    note('dataset grew');
  }
}

function victims(): { name: string; pid: number }[] {
  return cluster.processes.flatMap(({ name, pid }) => {
    const isOurs = /^(global-manager|local-controller-|api-server)/.test(name);
    return isOurs && pid !== undefined ? [{ name, pid }] : [];
  });
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // it has ended by itself
  }
}

const fillers = new Set<string>();

function fault(): void {
  const { name, pid } = pick(victims());
  const kind = name.replace(/-edge-\d|-cloud-\d/, '');
  const faults: (() => void)[] = [
    () => {
      note(`kill -9 of a ${kind}`);
      signal(pid, 'SIGKILL');
    },
    () => {
      note(`SIGSTOP of a ${kind}`);
      signal(pid, 'SIGSTOP');
      setTimeout(() => signal(pid, 'SIGCONT'), 1_000 + random.int(9_000));
    },
    () => {
      note('connections cut');
      proxy.cut();
    },
    () => {
      note('network stalled');
      proxy.fault.isStalled = true;
      setTimeout(() => (proxy.fault.isStalled = false), 500 + random.int(8_000));
    },
    () => {
      note('network slow');
      proxy.fault.delayMs = 50 + random.int(600);
      setTimeout(() => (proxy.fault.delayMs = 0), 1_000 + random.int(8_000));
    },
    () => {
      note('network closed');
      proxy.fault.isClosed = true;
      proxy.cut();
      setTimeout(() => (proxy.fault.isClosed = false), 500 + random.int(8_000));
    },
    () => {
      if (!canFill) return;
      note('disk full');
      const filler = join(layout.controllerDir(pick(EDGES)), 'filler');
      spawnSync('dd', ['if=/dev/zero', `of=${filler}`, 'bs=64k', `count=${DISK_MIB * 16}`]);
      fillers.add(filler);
      setTimeout(() => rmSync(filler, { force: true }), 1_000 + random.int(6_000));
    },
    () => {
      note('connections swallowed');
      proxy.swallow();
    },
  ];
  pick(faults)();
}

/** Samples that are lost or there twice, and services that are where they should not be. */
async function otherDifference(): Promise<string[]> {
  const wrong: string[] = [];
  for (const [edge, count] of pushed) {
    const path = join(layout.rootfs(edge), 'data', `${pushedName(edge)}.jsonl`);
    const lines = existsSync(path) ? readFileSync(path, 'utf8').trim().split('\n') : [];
    const got = lines.filter((l) => l !== '').map((l) => (JSON.parse(l) as { n: number }).n);
    const wanted = Array.from({ length: count }, (_, n) => n);
    if (got.join() !== wanted.join())
      wrong.push(
        `${edge}: ${count} samples were pushed, ${got.length} are there: ${got.slice(-5)}`,
      );
  }
  const { items } = (await client.request('GET', '/api/v1/namespaces/default/pods')) as {
    items: {
      metadata: { name: string; deletionTimestamp?: string };
      spec: { nodeName?: string };
    }[];
  };
  const nodes = EDGES.filter((e) => (groups.get(e) ?? '') !== '');
  for (const name of ['s0', 's1']) {
    const got = items
      .filter((p) => p.metadata.name.startsWith(`${name}-deployment-edge`))
      .map((p) => p.spec.nodeName ?? '')
      .toSorted((a, b) => a.localeCompare(b));
    const wanted = services.has(name) ? nodes : [];
    if (got.join() !== wanted.join()) wrong.push(`${name} runs on [${got}], should on [${wanted}]`);
  }
  return wrong;
}

/** What is not as it should be. */
async function difference(): Promise<string[]> {
  const wrong = await otherDifference();
  const { items } = (await client.request(
    'GET',
    '/apis/sedna.io/v1alpha1/namespaces/default/datasets',
  )) as { items: { metadata: { name: string }; status?: { numberOfSamples?: number } }[] };
  for (const edge of EDGES)
    truth.set(pushedName(edge), { node: edge, lines: pushed.get(edge) ?? 0 });
  for (const [name, { node, lines }] of truth) {
    const found = items.find((i) => i.metadata.name === name);
    if (found?.status?.numberOfSamples !== lines)
      wrong.push(
        `${name} on ${node}: ${found?.status?.numberOfSamples} samples in its status, ${lines} in its file`,
      );
  }
  for (const { metadata } of items)
    if (!truth.has(metadata.name)) wrong.push(`${metadata.name} is still in the cluster`);
  for (const node of EDGES) {
    const path = join(layout.controllerDir(node), 'edge.db');
    if (!existsSync(path)) continue;
    const db = new DatabaseSync(path, { readOnly: true });
    const held = db
      .prepare("SELECT name FROM objects WHERE deleted=0 AND kind='Dataset'")
      .all()
      .map((r) => String(r['name']))
      .toSorted();
    db.close();
    const wanted = [...truth]
      .filter(([, t]) => t.node === node)
      .map(([name]) => name)
      .toSorted();
    if (held.join() !== wanted.join()) wrong.push(`${node} holds ${held}, should hold ${wanted}`);
  }
  return wrong;
}

const addresses = new Map<string, string>();
for (const edge of EDGES) {
  const node = (await client.request('GET', `/api/v1/nodes/${edge}`)) as {
    status: { addresses: { type: string; address: string }[] };
  };
  const ip = node.status.addresses.find((a) => a.type === 'InternalIP')?.address;
  addresses.set(edge, ip ?? '');
}
await applyPushed();
await resources.apply(
  {
    apiVersion: 'sedna.io/v1alpha1',
    kind: 'Model',
    metadata: { name: 'm' },
    spec: { url: '/models/m.onnx', format: 'onnx' },
  },
  'default',
);
for (const node of [...EDGES, 'cloud-1']) {
  const path = join(layout.rootfs(node), 'models', 'm.onnx');
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, 'x');
}
const until = performance.now() + Number(values.seconds) * 1_000;
let nextFault = performance.now() + 2_000;
while (performance.now() < until) {
  await work();
  if (performance.now() > nextFault) {
    fault();
    nextFault = performance.now() + 500 + random.int(4_000);
  }
  await sleep(50 + random.int(300));
}
note('calm');
Object.assign(proxy.fault, { delayMs: 0, isStalled: false, isClosed: false });
for (const filler of fillers) rmSync(filler, { force: true });
const calmAt = performance.now();
let wrong = await difference().catch((error: unknown) => [messageOf(error)]);
while (wrong.length > 0 && performance.now() - calmAt < CALM_MS) {
  await sleep(500);
  wrong = await difference().catch((error: unknown) => [messageOf(error)]);
}
const convergedMs = Math.round(performance.now() - calmAt);
await cluster.stop();
client.close();
proxy.close();
if (canFill) for (const edge of EDGES) spawnSync('umount', ['-l', layout.controllerDir(edge)]);

const report = {
  seed: Number(values.seed),
  seconds: Number(values.seconds),
  counts,
  convergedMs,
  wrong,
};
mkdirSync('.cache/chaos', { recursive: true });
writeFileSync('.cache/chaos/report.json', JSON.stringify({ ...report, story }, null, 2));
const rows = Object.entries(counts).toSorted(([a], [b]) => (a < b ? -1 : 1));
writeFileSync(
  '.cache/chaos/report.md',
  [
    `# Chaos, seed ${values.seed}, ${values.seconds} s`,
    '',
    wrong.length === 0
      ? `Everything was as it should be ${convergedMs} ms after the last fault.`
      : `**Not as it should be:**\n\n${wrong.map((w) => `- ${w}`).join('\n')}`,
    '',
    '| What | How often |',
    '| --- | ---: |',
    ...rows.map(([what, n]) => `| ${what} | ${n} |`),
    '',
    '```',
    ...story,
    '```',
    '',
  ].join('\n'),
);
for (const [what, n] of rows) console.log(`${String(n).padStart(5)}  ${what}`);
for (const w of wrong) console.log(`WRONG ${w}`);
console.log(
  `seed ${values.seed}: ${wrong.length} differences; as it should be ${convergedMs} ms after the last fault (.cache/chaos/report.md)`,
);
if (wrong.length === 0) rmSync(folder, { recursive: true, force: true });
else console.log(`the cluster’s files are kept in ${folder}`);
process.exit(wrong.length === 0 ? 0 : 1);
