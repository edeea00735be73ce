import { appendFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { parseArgs } from 'node:util';
import { messageOf, seededRandom } from '@shoal/core';
import { EmbeddedCluster, layoutOf, Resources } from 'shoal';
import { FaultProxy } from './fault-proxy.ts';

const HELP = `Real processes on loopback under a bad network: datasets come, grow and go at random while processes are killed
or stopped and connections are cut, stalled, delayed and swallowed. Then everything must be as it should be.

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

async function startCluster(): Promise<EmbeddedCluster> {
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

async function work(): Promise<void> {
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
      note('connections swallowed');
      proxy.swallow();
    },
  ];
  pick(faults)();
}

/** What is not as it should be. */
async function difference(): Promise<string[]> {
  const wrong: string[] = [];
  const { items } = (await client.request(
    'GET',
    '/apis/sedna.io/v1alpha1/namespaces/default/datasets',
  )) as { items: { metadata: { name: string }; status?: { numberOfSamples?: number } }[] };
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
