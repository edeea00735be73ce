import { spawn } from 'node:child_process';
import { mkdirSync, openSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type JsonObject, ShoalError } from '@shoal/core';
import { EmbeddedCluster } from '../embedded/embedded-cluster.ts';
import { type Layout, layoutOf } from '../embedded/layout.ts';
import { holderOf, requireRunning, runningState } from '../embedded/lock.ts';
import { ProgressView } from '../terminal/progress.ts';
import { styled } from '../terminal/style.ts';
import { renderTable } from '../terminal/table.ts';
import { withCluster } from './context.ts';

const DETACH_TIMEOUT_MS = 60_000;
const DOWN_TIMEOUT_MS = 40_000;

function hints(layout: Layout): string {
  return [
    `  export KUBECONFIG=${layout.kubeconfig}`,
    '  kubectl get nodes            (or: shoal get nodes)',
    '  shoal run joint-inference/digits',
    '',
  ].join('\n');
}

/** Resolves at the first Ctrl-C or SIGTERM. */
export function untilInterrupted(): { promise: Promise<void>; signal: AbortSignal } {
  const stopping = new AbortController();
  const promise = new Promise<void>((resolve) => {
    const stop = (): void => {
      stopping.abort(new ShoalError('cancelled', 'interrupted'));
      resolve();
    };
    process.on('SIGINT', stop);
    process.on('SIGTERM', stop);
  });
  return { promise, signal: stopping.signal };
}

export async function upCommand(options: {
  folder: string;
  edges: string;
  detach?: boolean;
}): Promise<void> {
  const layout = layoutOf(options.folder);
  if (options.detach) return await upDetached(layout, options);
  const interrupted = untilInterrupted();
  const view = new ProgressView();
  const cluster = await EmbeddedCluster.start({
    layout,
    edges: Number(options.edges),
    onStep: (t) => view.stage(t),
    signal: interrupted.signal,
  }).finally(() => view.finish());
  process.stdout.write(
    `${styled('green', 'The cluster is up')}: ${cluster.state.cloudNode}, ${cluster.state.edgeNodes.join(', ')}\n${hints(layout)}Ctrl-C ends it.\n`,
  );
  const watch = setInterval(() => {
    if (cluster.failure) process.kill(process.pid, 'SIGTERM');
  }, 500);
  await interrupted.promise;
  clearInterval(watch);
  process.stdout.write('stopping …\n');
  await cluster.stop();
  if (cluster.failure) throw cluster.failure;
}

async function upDetached(
  layout: Layout,
  options: { folder: string; edges: string },
): Promise<void> {
  const holder = holderOf(layout);
  if (holder !== undefined)
    throw new ShoalError(
      'failed_precondition',
      `a cluster is already running in ${layout.root} (process ${holder}). End it with: shoal down`,
    );
  mkdirSync(layout.logDir, { recursive: true });
  const logFile = join(layout.logDir, 'up.log');
  rmSync(logFile, { force: true });
  const log = openSync(logFile, 'a');
  const main = process.argv[1] ?? '';
  const child = spawn(
    process.execPath,
    [main, 'up', '--edges', options.edges, '--folder', options.folder],
    { detached: true, stdio: ['ignore', log, log] },
  );
  let exited = false;
  child.once('exit', () => {
    exited = true;
  });
  child.unref();
  const deadline = Date.now() + DETACH_TIMEOUT_MS;
  while (!runningState(layout)) {
    if (exited || Date.now() > deadline)
      throw new ShoalError(
        'failed_precondition',
        `the cluster did not come up:\n${readFileSync(logFile, 'utf8')}`,
      );
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  process.stdout.write(
    `${styled('green', 'The cluster is up')} (process ${child.pid})\n${hints(layout)}shoal down ends it.\n`,
  );
}

export async function downCommand(options: { folder: string; purge?: boolean }): Promise<void> {
  const layout = layoutOf(options.folder);
  const holder = holderOf(layout);
  if (holder !== undefined) {
    process.kill(holder, 'SIGTERM');
    const deadline = Date.now() + DOWN_TIMEOUT_MS;
    while (holderOf(layout) === holder) {
      if (Date.now() > deadline)
        throw new ShoalError(
          'deadline_exceeded',
          `process ${holder} does not end; its logs are in ${layout.logDir}`,
        );
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
  if (options.purge) rmSync(layout.root, { recursive: true, force: true });
  process.stdout.write(
    holder === undefined ? 'no cluster was running\n' : 'the cluster has ended\n',
  );
}

export async function statusCommand(options: {
  folder: string;
  namespace: string;
  json?: boolean;
}): Promise<void> {
  const layout = layoutOf(options.folder);
  const state = requireRunning(layout);
  await withCluster(options, async ({ client }) => {
    const nodes = (await client.request('GET', '/api/v1/nodes')) as { items: JsonObject[] };
    const pods = (await client.request('GET', '/api/v1/pods')) as { items: JsonObject[] };
    if (options.json) {
      process.stdout.write(
        `${JSON.stringify({ ...state, token: undefined, authority: undefined, pods: pods.items.length })}\n`,
      );
      return;
    }
    const rows = nodes.items.map((n) => nodeRow(n, pods.items));
    process.stdout.write(
      `cluster in ${layout.root}, process ${state.pid}, since ${state.startedAt}\nAPI server ${state.server}, kubeconfig ${layout.kubeconfig}\n\n`,
    );
    process.stdout.write(`${renderTable([['NODE', 'READY', 'PODS'], ...rows])}\n`);
  });
}

function nodeRow(node: JsonObject, pods: readonly JsonObject[]): string[] {
  const { metadata, status } = node as {
    metadata: { name: string };
    status?: { conditions?: { type: string; status: string }[] };
  };
  const ready =
    status?.conditions?.find((c) => c.type === 'Ready')?.status === 'True' ? 'yes' : 'no';
  const running = pods.filter(
    (p) => (p as { spec?: { nodeName?: string } }).spec?.nodeName === metadata.name,
  ).length;
  return [metadata.name, ready, String(running)];
}
