import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KubeConfig } from '@kubernetes/client-node';
import { ApiClient, renderKubeconfig } from '@shoal/cluster';

const MAIN = join(import.meta.dirname, '../cli/src/process/api-server.ts');
const TOKEN = 'a-token-for-tests';

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}

/** The embedded API server alone, as a process that can be killed and started again in its folder. */
export class ApiServerProcess {
  readonly folder: string;
  readonly url: string;
  readonly #port: number;
  readonly #history: number | undefined;
  #child: ChildProcess | undefined;

  private constructor(port: number, history: number | undefined) {
    this.folder = mkdtempSync(join(tmpdir(), 'shoal-api-'));
    this.url = `https://127.0.0.1:${port}`;
    this.#port = port;
    this.#history = history;
  }

  /** @param history How many changes the server keeps for watches. */
  static async start(history?: number): Promise<ApiServerProcess> {
    const server = new ApiServerProcess(await freePort(), history);
    await server.run();
    return server;
  }

  /** Starts the process; resolves once it answers. @returns Milliseconds that took. */
  async run(): Promise<number> {
    const startedAt = performance.now();
    const settings = {
      dataDir: this.folder,
      port: this.#port,
      tokens: [{ token: TOKEN, user: { name: 'admin', groups: ['system:masters'] } }],
      ...(this.#history === undefined ? {} : { history: this.#history }),
    };
    const cache = join(tmpdir(), 'shoal-api-compile-cache');
    this.#child = spawn(process.execPath, [MAIN], {
      env: {
        ...process.env,
        SHOAL_PROCESS_OPTIONS: JSON.stringify(settings),
        NODE_COMPILE_CACHE: cache,
      },
      stdio: ['pipe', 'ignore', 'inherit'],
    });
    for (;;) {
      if (this.#child.exitCode !== null) throw new Error('the API server did not start');
      if (await this.#answers()) return performance.now() - startedAt;
      await sleep(10);
    }
  }

  async #answers(): Promise<boolean> {
    let client: ApiClient | undefined;
    try {
      client = this.client();
      await client.request('GET', '/api/v1/namespaces/default');
      return true;
    } catch {
      return false;
    } finally {
      client?.close();
    }
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  get token(): string {
    return TOKEN;
  }

  get authority(): string {
    const file = readFileSync(join(this.folder, 'ca.json'), 'utf8');
    return (JSON.parse(file) as { certificate: string }).certificate;
  }

  client(): ApiClient {
    return new ApiClient({ server: this.url, authority: this.authority, token: TOKEN });
  }

  kubeConfig(): KubeConfig {
    const config = new KubeConfig();
    config.loadFromString(this.kubeconfig());
    return config;
  }

  kubeconfig(): string {
    const { url: server } = this;
    return renderKubeconfig({ server, authority: this.authority, user: 'admin', token: TOKEN });
  }

  /** Ends the process: at once, or as `shoal down` does. */
  async kill(signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): Promise<void> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    child.kill(signal);
    await once(child, 'exit');
  }

  async close(): Promise<void> {
    await this.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
