import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { digester } from '@shoal/core';
import { AggregationServer, createIdentities, type FederatedModel } from '@shoal/lib';
import { Participant, portableCrypto, webSocketTransport } from '@shoal/lib/participant';
import { afterEach, describe, expect, test } from 'vitest';
import { WebSocket as Client } from 'ws';
import { bundlePage } from '../src/bundle.ts';
import { ParticipantPage } from '../src/index.ts';
import { parseImages } from '../src/page/image-lines.ts';
import { accuracyPlot } from '../src/page/rounds-view.ts';

const SIZE = 50_000;
const LAYOUT = [{ name: 'w', shape: [SIZE] }];
const cleanups: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

function toyModel(id: number): FederatedModel {
  return {
    layout: LAYOUT,
    size: SIZE,
    samples: 10 * id,
    initial: () => new Float32Array(SIZE),
    train: (vector, task) =>
      Promise.resolve({
        delta: task.evaluateOnly
          ? new Float32Array()
          : vector.map((v, i) => (i % id) * 0.01 - v * 0.1),
        samples: 10 * id,
        metrics: { accuracy: 0.5 },
      }),
    close: () => Promise.resolve(),
  };
}

async function serve(over: object = {}): Promise<{ server: AggregationServer; url: string }> {
  const dir = mkdtempSync(join(tmpdir(), 'shoal-page-'));
  cleanups.push(() => rmSync(dir, { recursive: true, force: true }));
  const server = new AggregationServer({
    job: 'toy',
    rounds: 2,
    participants: 3,
    dir,
    initial: new Float32Array(SIZE),
    layout: LAYOUT,
    token: 'secret',
    ...over,
  });
  await server.start();
  cleanups.push(() => server.close());
  const page = new ParticipantPage({
    job: 'toy',
    inputShape: [1, 2, 2],
    local: { proximal: 0, controlVariates: false },
    aggregation: server,
    model: Uint8Array.of(1, 2, 3),
  });
  const url = await page.start();
  cleanups.push(() => page.close());
  return { server, url };
}

test('the script of the page holds nothing of Node', async () => {
  const code = await bundlePage();
  expect(code).toContain('/participate');
  expect(code).not.toMatch(/from\s*["']node:|import\(["']node:[a-z]+["']\)[^.]*readFile/);
  expect(code.length).toBeLessThan(600_000);
});

describe('the server of the page', () => {
  test('serves what the page needs, to nobody’s frame, and nothing else', async () => {
    const { url } = await serve();
    const get = (path: string): Promise<Response> => fetch(new URL(path, url));
    const first = await get('/');
    expect(await first.text()).toContain('<title>Shoal');
    expect(first.headers.get('content-security-policy')).toContain("frame-ancestors 'none'");
    expect(await (await get('/federation.json')).json()).toEqual({
      job: 'toy',
      inputShape: [1, 2, 2],
      local: { proximal: 0, controlVariates: false },
    });
    expect(new Uint8Array(await (await get('/model.onnx')).arrayBuffer())).toEqual(
      Uint8Array.of(1, 2, 3),
    );
    const runtime = await get('/ort/ort-wasm-simd-threaded.wasm');
    expect(runtime.headers.get('content-type')).toBe('application/wasm');
    expect((await get('/../package.json')).status).toBe(404);
    expect((await get('/secret')).status).toBe(404);
  });

  test('a page of another site cannot take part', async () => {
    const { url } = await serve();
    const address = `${url.replace('http', 'ws')}participate`;
    const refused = await new Promise<string>((resolve) => {
      const socket = new Client(address, { origin: 'https://evil.example' });
      socket.on('error', (error) => resolve(error.message));
      socket.on('open', () => resolve('open'));
    });
    expect(refused).toMatch(/401/);
  });

  test('bytes that are no frame end their sender’s stream only', async () => {
    const { server, url } = await serve({ rounds: 1 });
    const address = `${url.replace('http', 'ws')}participate`;
    const reason = await new Promise<string>((resolve) => {
      const socket = new Client(address);
      socket.on('open', () => socket.send(Buffer.from('GET / HTTP/1.1')));
      socket.on('close', (_code, why) => resolve(why.toString()));
    });
    expect(reason).toBe('a message is no frame');
    expect(server.history).toEqual([]);
  });

  test('participants over WebSockets, with portable cryptography, in a secure federation', async () => {
    const { server, url } = await serve({ privacy: { secureAggregation: { range: 1 } } });
    const names = ['p1', 'p2', 'p3'];
    const identities = createIdentities(names);
    const work = names.map((participant, i) => {
      const identity = identities.get(participant);
      return new Participant(
        {
          transport: webSocketTransport(`${url.replace('http', 'ws')}participate`),
          platform: { newHash: digester, crypto: portableCrypto },
          job: 'toy',
          participant,
          token: 'secret',
          ...(identity ? { identity } : {}),
        },
        toyModel(i + 1),
      ).run(new AbortController().signal);
    });
    const { history, model } = await server.done;
    expect(history.map((h) => h.participants)).toEqual([3, 3, 3]);
    expect(Number.isFinite(model[SIZE - 1])).toBe(true);
    expect(model.some((v) => v !== 0)).toBe(true);
    for (const { reason } of await Promise.all(work)) expect(reason).toBe('all 2 rounds are done');
  });
});

describe('the page', () => {
  test('reads images, and names the line that is none', () => {
    const line = (bytes: number[], label: unknown): string =>
      JSON.stringify({ image: btoa(String.fromCharCode(...bytes)), label });
    const { inputs, labels, size } = parseImages(
      `${line([0, 255, 51, 102], 3)}\n\n${line([255, 0, 0, 0], 1)}\n`,
      [1, 2, 2],
    );
    expect([size, [...labels]]).toEqual([2, [3n, 1n]]);
    expect([...inputs.subarray(0, 4)].map((v) => v.toFixed(1))).toEqual([
      '0.0',
      '1.0',
      '0.2',
      '0.4',
    ]);
    const parse = (text: string) => () => parseImages(text, [1, 2, 2]);
    expect(parse('')).toThrow('the file has no samples');
    expect(parse('{')).toThrow('line 1 is no JSON');
    expect(parse(line([1], 3))).toThrow('line 1: the image has 1 bytes, wanted are 4');
    expect(parse(line([1, 2, 3, 4], -1))).toThrow(/line 1 needs "image"/);
    expect(parse('{"image": "%", "label": 1}')).toThrow('line 1: the image is no base64');
  });

  test('draws accuracy by round', () => {
    const round = (accuracy: number): never => ({ metrics: { accuracy } }) as never;
    const plot = accuracyPlot([round(0), round(0.5), round(1)]);
    expect(plot).toContain('points="40.0,140.0 255.0,75.0 470.0,10.0"');
  });
});
