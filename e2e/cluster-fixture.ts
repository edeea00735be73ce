import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { ApiClient } from '@shoal/cluster';
import type { JsonObject } from '@shoal/core';
import { EmbeddedCluster, type Layout, layoutOf, Resources } from 'shoal';

export interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason?: string;
  readonly message?: string;
  readonly stage?: string;
}

export interface Live extends JsonObject {
  readonly metadata: { readonly name: string; readonly uid: string };
  readonly spec?: JsonObject;
  readonly status?: {
    readonly conditions?: readonly Condition[];
    readonly round?: number;
    readonly message?: string;
    readonly numberOfSamples?: number;
    readonly phase?: string;
    readonly deployedModel?: string;
    readonly containerStatuses?: readonly {
      readonly restartCount: number;
      readonly state: JsonObject;
    }[];
  };
}

/** Where the requests of ended clusters are kept, for the test of the manager's rights. */
const REQUESTS = join(import.meta.dirname, '../.cache/requests');

function keepRequests(file: string): void {
  if (!existsSync(file)) return;
  mkdirSync(REQUESTS, { recursive: true });
  copyFileSync(file, join(REQUESTS, `${randomUUID()}.jsonl`));
}

const MAIN = join(import.meta.dirname, '../cli/src/main.ts');

/** A real embedded cluster in a folder of its own. */
export class ClusterFixture {
  readonly folder: string;
  readonly layout: Layout;
  readonly cluster: EmbeddedCluster;
  readonly client: ApiClient;
  readonly resources: Resources;

  private constructor(folder: string, cluster: EmbeddedCluster) {
    this.folder = folder;
    this.layout = layoutOf(folder);
    this.cluster = cluster;
    this.client = cluster.client();
    this.resources = new Resources(this.client);
  }

  static async start(edges = 1, managers = 1): Promise<ClusterFixture> {
    const folder = mkdtempSync(join(tmpdir(), 'shoal-e2e-'));
    return new ClusterFixture(
      folder,
      await EmbeddedCluster.start({ layout: layoutOf(folder), edges, managers }),
    );
  }

  /** A client with a token of its own. */
  clientAs(token: string): ApiClient {
    const { server, authority } = this.cluster.state;
    return new ApiClient({ server, authority, token });
  }

  async stop(): Promise<void> {
    this.client.close();
    await this.cluster.stop();
    keepRequests(join(this.layout.serverDir, 'requests.jsonl'));
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** A file of a node as this process sees it. */
  path(node: string, path: string): string {
    const real = join(this.layout.rootfs(node), path);
    mkdirSync(dirname(real), { recursive: true });
    return real;
  }

  async apply(...objects: JsonObject[]): Promise<void> {
    for (const object of objects) await this.resources.apply(object, 'default');
  }

  async get(kind: string, name: string): Promise<Live | undefined> {
    return (await this.resources.get(kind, 'default', name)) as Live | undefined;
  }

  async pods(prefix: string): Promise<Live[]> {
    const list = (await this.client.request('GET', '/api/v1/namespaces/default/pods')) as {
      items: Live[];
    };
    return list.items.filter((p) => p.metadata.name.startsWith(prefix));
  }

  /** Waits until a check gives something; the error says what it was waiting for. */
  async until<T>(
    what: string,
    check: () => Promise<T | undefined | false>,
    timeoutMs = 30_000,
  ): Promise<T> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const found = await check().catch(() => undefined);
      if (found) return found;
      if (Date.now() > deadline) throw new Error(`waited ${timeoutMs} ms in vain for ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 60));
    }
  }

  /** The newest condition of an object. */
  async condition(kind: string, name: string): Promise<Condition | undefined> {
    return (await this.get(kind, name))?.status?.conditions?.at(-1);
  }

  /** Runs `shoal` on this folder; its output has no colours, as it is no terminal. */
  shoal(args: string, input = ''): Promise<{ code: number | null; output: string }> {
    const child = spawn(process.execPath, [MAIN, '--folder', this.folder, ...args.split(' ')]);
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
    child.stdin.end(input);
    return new Promise((resolve) => child.on('close', (code) => resolve({ code, output })));
  }

  pidOf(process: string): number {
    const pid = this.cluster.processes.find((p) => p.name === process)?.pid;
    if (pid === undefined) throw new Error(`${process} is not running`);
    return pid;
  }
}

/** True while a process exists. */
export function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** A pod template that runs one command. */
export function template(
  node: string,
  command: readonly string[],
  extra: JsonObject = {},
): JsonObject {
  return {
    spec: {
      nodeName: node,
      containers: [{ name: 'main', image: 'shoal/examples:0.1.0', command, ...extra }],
    },
  };
}
