import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/** Where Flower's programs are: beside the Python that has it. */
function programsOf(python: string): string | undefined {
  const bin = dirname(python);
  return existsSync(join(bin, 'flower-superlink')) ? bin : undefined;
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}

const PROJECT = `[project]
name = "idle"
version = "1.0.0"
description = "rounds without training"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41.0"]
[tool.flwr.app]
publisher = "shoal"
fab-format-version = 1
flwr-version-target = "1.41.0"
[tool.flwr.app.components]
serverapp = "idle.server:app"
clientapp = "idle.client:app"
[tool.flwr.app.config]
rounds = 1
size = 1
`;

/** The app, and where the SuperLink is. */
function writeApp(dir: string, port: number): void {
  cpSync(join(import.meta.dirname, 'flower'), join(dir, 'idle'), { recursive: true });
  writeFileSync(join(dir, 'idle/__init__.py'), '');
  writeFileSync(join(dir, 'pyproject.toml'), PROJECT);
  writeFileSync(join(dir, 'LICENSE'), 'Apache-2.0\n');
  mkdirSync(join(dir, 'home'));
  const connection = `[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:${port}"\ninsecure = true\n`;
  writeFileSync(join(dir, 'home/config.toml'), connection);
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const STARTING_MS = 6_000;
const PATIENCE_MS = 180_000;

/**
 * Rounds of Flower without training work, measured as ours are: a SuperLink and two SuperNodes on loopback,
 * without TLS.
 *
 * @param values Float32 values of the model.
 * @returns Milliseconds from one round to the next; undefined where Flower is not beside `SHOAL_PYTHON`.
 */
export async function flowerRounds(values: number, rounds: number): Promise<number[] | undefined> {
  const bin = programsOf(process.env['SHOAL_PYTHON'] ?? '');
  if (bin === undefined) return undefined;
  const dir = mkdtempSync(join(tmpdir(), 'shoal-flower-'));
  const [link, ...nodes] = [await freePort(), await freePort(), await freePort()];
  writeApp(dir, link);
  const times = join(dir, 'times');
  const env = {
    ...process.env,
    PATH: `${bin}:${process.env['PATH']}`,
    FLWR_HOME: join(dir, 'home'),
    FLWR_TELEMETRY_ENABLED: '0',
    SHOAL_TIMES: times,
  };
  const started: ChildProcess[] = [];
  const start = (program: string, args: readonly string[]): void => {
    // In a group of its own: what it starts ends with it.
    const options = { env, stdio: 'ignore', detached: true, cwd: dir } as const;
    started.push(
      spawn(join(bin, program), [...args, '--insecure', '--host', '127.0.0.1'], options),
    );
  };
  try {
    start('flower-superlink', ['--port', String(link)]);
    await pause(STARTING_MS);
    for (const port of nodes)
      start('flower-supernode', ['--superlink', `127.0.0.1:${link}`, '--port', String(port)]);
    await pause(STARTING_MS);
    const config = `rounds=${rounds} size=${values}`;
    spawnSync(join(bin, 'flwr'), ['run', dir, 'here', '--run-config', config], {
      env,
      timeout: 60_000,
    });
    const at = (): number[] =>
      existsSync(times) ? readFileSync(times, 'utf8').trim().split('\n').map(Number) : [];
    for (const end = Date.now() + PATIENCE_MS; at().length < rounds && Date.now() < end; )
      await pause(250);
    const ended = at();
    return ended.slice(1).map((t, i) => (t - (ended[i] ?? t)) * 1000);
  } finally {
    for (const { pid } of started) if (pid !== undefined) process.kill(-pid, 'SIGKILL');
    rmSync(dir, { recursive: true, force: true });
  }
}
