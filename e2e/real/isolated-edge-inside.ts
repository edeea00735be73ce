import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';

/**
 * The edge machine of `isolated-edge.ts`, in a network namespace of its own: its loopback device, its
 * local controller, its worker, and one address that leads out, through a socket in the file system.
 */
interface Machine {
  readonly out: string;
  readonly controller: { readonly entry: string; readonly env: Record<string, string> };
  readonly worker: { readonly command: readonly string[]; readonly env: Record<string, string> };
}

const { out, controller, worker } = JSON.parse(process.argv[2] ?? '{}') as Machine;
if (spawnSync('ip', ['link', 'set', 'lo', 'up']).status !== 0) throw new Error('no loopback');
const sockets = new Set<Socket>();
let isCut = false;
const door = createServer((socket) => {
  if (isCut) return void socket.destroy();
  const up = connect(out);
  for (const end of [socket, up]) {
    sockets.add(end);
    end.on('error', () => undefined);
    end.on('close', () => sockets.delete(end));
  }
  socket.on('close', () => up.destroy());
  up.on('close', () => socket.destroy());
  socket.pipe(up).pipe(socket);
});
await once(door.listen(9000, '127.0.0.1'), 'listening');

const children: ChildProcess[] = [];
function start(command: readonly string[], env: Record<string, string>): void {
  const [program = '', ...args] = command;
  children.push(spawn(program, args, { env: { ...process.env, ...env }, stdio: ['ignore', 2, 2] }));
}
start([process.execPath, controller.entry], controller.env);
start(worker.command, worker.env);

/** What the test asks this machine, a line of JSON each. */
async function answer(line: string): Promise<unknown> {
  const asked = JSON.parse(line) as { do: string; url?: string; body?: string };
  if (asked.do === 'cut') {
    isCut = true;
    for (const socket of sockets) socket.destroy();
    return {};
  }
  try {
    const response = await fetch(asked.url ?? '', {
      signal: AbortSignal.timeout(20_000),
      ...(asked.body ? { method: 'POST', body: asked.body } : {}),
      headers: { 'Content-Type': 'application/json' },
    });
    return { status: response.status, body: await response.text() };
  } catch (error) {
    const { cause } = error as { cause?: { code?: string } };
    return { status: 0, body: cause?.code ?? String(error) };
  }
}
const lines = createInterface({ input: process.stdin });
lines.on('line', (line) => {
  void answer(line).then((value) => process.stdout.write(`${JSON.stringify(value)}\n`));
});
lines.on('close', () => {
  for (const child of children) child.kill('SIGKILL');
  process.exit(0);
});
process.stdout.write('{"ready":true}\n');
