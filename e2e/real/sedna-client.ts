import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SednaAggregationServer } from '@shoal/lib';
import { has, type Outcome, run } from './outcome.ts';

/** What a worker on Sedna's Python library does with its aggregator, in its order of frames. */
const CLIENT = `
import asyncio, json, sys
import websockets

async def main(url, name, samples, value):
    async with websockets.connect(url, max_size=16 * 2**20) as ws:
        await ws.send(json.dumps({"type": "subscribe", "client_id": name}))
        await ws.recv()
        weights, exit_flag = [[value, value], [[value]]], "continue"
        while exit_flag != "ok":
            data = {"num_samples": samples, "weights": weights}
            await ws.send(json.dumps({"type": "update_weight", "client": name, "data": data, "job_name": "j"}))
            while True:
                frame = json.loads(await ws.recv())
                if frame["type"] == "recv_weight": break
            exit_flag, weights = frame["data"]["exit_flag"], frame["data"]["weights"]
        print(json.dumps(weights))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))`;

function client(env: NodeJS.ProcessEnv, args: readonly string[]): Promise<string> {
  return new Promise((resolve) => {
    const child = spawn('python3', ['-c', CLIENT, ...args], { env, timeout: 20_000 });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (data: Buffer) => {
        output += data.toString('utf8');
      });
    child.on('close', () => resolve(output.trim()));
  });
}

/** Two Python clients federate over Sedna's websocket protocol. */
export async function sednaClient(): Promise<Outcome[]> {
  const name = 'Python clients federate over Sedna’s websocket protocol';
  if (!has('python3', '--version'))
    return [{ name, result: 'skipped', detail: 'python3 is not here' }];
  const site = mkdtempSync(join(tmpdir(), 'shoal-sedna-'));
  try {
    if (!has('python3', '-c', 'import websockets'))
      run('python3', ['-m', 'pip', 'install', '-q', '--target', site, 'websockets'], {
        timeoutMs: 120_000,
      });
    const env = { ...process.env, PYTHONPATH: site };
    if (run('python3', ['-c', 'import websockets'], { env: { PYTHONPATH: site } }).code !== 0)
      return [{ name, result: 'skipped', detail: 'the package websockets cannot be installed' }];
    const server = new SednaAggregationServer({ rounds: 3, participants: 2 });
    const url = await server.start();
    const answers = await Promise.all([
      client(env, [url, 'trainworker-a', '1', '1']),
      client(env, [url, 'trainworker-b', '3', '5']),
    ]);
    await server.close();
    const wanted = '[[4, 4], [[4]]]';
    const good = answers.every((a) => a.replaceAll('.0', '') === wanted);
    return [{ name, result: good ? 'passed' : 'failed', detail: answers.join(' | ').slice(-300) }];
  } finally {
    rmSync(site, { recursive: true, force: true });
  }
}
