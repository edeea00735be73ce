import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { systemClock } from './clock.ts';
import { download } from './download.ts';
import { httpSource } from './remote-source.ts';

/** Fetching from a real server that breaks off, changes its mind, or lies. */
const CONTENT = Buffer.from(Array.from({ length: 100_000 }, (_, i) => i % 251));
let dir: string;
let server: Server;
let answer: (request: IncomingMessage, response: ServerResponse) => void;
const ranges: (string | undefined)[] = [];

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'shoal-download-'));
  ranges.length = 0;
  server = createServer((request, response) => {
    ranges.push(request.headers.range);
    answer(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
  rmSync(dir, { recursive: true });
});

const clock = { ...systemClock, sleep: () => Promise.resolve() };
const url = (hash = ''): URL =>
  new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/m.onnx?key=secret${hash}`);
const file = (): string => join(dir, 'm.onnx');

/** Serves ranges of a content under a version; breaks off after some bytes. */
function serve(
  content: Buffer,
  version: string,
  breakAfter = Number.POSITIVE_INFINITY,
): typeof answer {
  return (request, response) => {
    const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
    const partial = from > 0 && request.headers['if-range'] === version;
    const body = partial ? content.subarray(from) : content;
    response.writeHead(partial ? 206 : 200, { ETag: version, 'Content-Length': body.length });
    if (body.length <= breakAfter) return void response.end(body);
    // Ended, not reset: what was sent arrives, the rest does not come.
    response.write(body.subarray(0, breakAfter), () => response.socket?.end());
  };
}

test('what breaks off goes on where it stopped, until it is complete', async () => {
  answer = serve(CONTENT, '"1"', 30_000);
  await download(httpSource(url()), file(), { clock });
  expect(readFileSync(file()).equals(CONTENT)).toBe(true);
  expect(ranges[0]).toBeUndefined();
  expect(ranges.slice(1).every((r) => /^bytes=[1-9]\d*-$/.test(r ?? ''))).toBe(true);
  expect(existsSync(`${file()}.part`)).toBe(false);
});

test('another process goes on from what one has left', async () => {
  answer = serve(CONTENT, '"1"', 30_000);
  await expect(download(httpSource(url()), file(), { clock, attempts: 1 })).rejects.toThrow(
    /aborted|30000 of 100000/,
  );
  answer = serve(CONTENT, '"1"');
  ranges.length = 0;
  await download(httpSource(url()), file(), { clock });
  expect(ranges).toEqual(['bytes=30000-']);
  expect(readFileSync(file()).equals(CONTENT)).toBe(true);
});

test('content that changed meanwhile is fetched from its start', async () => {
  answer = serve(CONTENT, '"1"', 30_000);
  await expect(download(httpSource(url()), file(), { clock, attempts: 1 })).rejects.toThrow(
    /aborted|30000 of 100000/,
  );
  const other = Buffer.alloc(50_000, 7);
  answer = serve(other, '"2"');
  await download(httpSource(url()), file(), { clock });
  expect(readFileSync(file()).equals(other)).toBe(true);
});

test('a part that was complete already is checked and taken; a longer one is begun anew', async () => {
  const whole = serve(CONTENT, '"1"');
  answer = (request, response) => {
    const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
    if (from < CONTENT.length) return whole(request, response);
    response.writeHead(416, { 'Content-Range': `bytes */${CONTENT.length}` }).end();
  };
  for (const length of [CONTENT.length, CONTENT.length + 10]) {
    writeFileSync(`${file()}.part`, Buffer.concat([CONTENT, Buffer.alloc(10)]).subarray(0, length));
    writeFileSync(`${file()}.part.json`, JSON.stringify({ version: '"1"' }));
    await download(httpSource(url()), file(), { clock });
    expect(readFileSync(file()).equals(CONTENT)).toBe(true);
  }
});

test('redirects are followed, also for the rest of what broke off; a circle is not', async () => {
  const content = serve(CONTENT, '"1"', 30_000);
  answer = (request, response) => {
    if (request.url?.startsWith('/real')) return content(request, response);
    response.writeHead(302, { Location: '/real' }).end();
  };
  await download(httpSource(url()), file(), { clock });
  expect(readFileSync(file()).equals(CONTENT)).toBe(true);
  answer = (_request, response) => response.writeHead(302, { Location: '/again' }).end();
  await expect(download(httpSource(url()), file(), { clock, attempts: 1 })).rejects.toThrow(
    'redirects too often',
  );
});

test('a pinned digest is checked; what is not it is thrown away', async () => {
  const hex = createHash('sha256').update(CONTENT).digest('hex');
  answer = serve(CONTENT, '"1"');
  await download(httpSource(url(`#sha256=${hex}`)), file(), { clock });
  const wrong = httpSource(url(`#sha256=${'0'.repeat(64)}`));
  await expect(download(wrong, join(dir, 'x'), { clock, attempts: 2 })).rejects.toThrow(
    /announced was sha256:0000/,
  );
  expect(existsSync(join(dir, 'x'))).toBe(false);
});

test('too large is refused before anything is written, or when it turns out', async () => {
  answer = serve(CONTENT, '"1"');
  await expect(download(httpSource(url()), file(), { clock, maxBytes: 1_000 })).rejects.toThrow(
    /m\.onnx has 100000 bytes, at most 1000 are fetched/,
  );
  expect(existsSync(`${file()}.part`)).toBe(false);
  answer = (_request, response) => {
    response.writeHead(200, { 'Transfer-Encoding': 'chunked' });
    response.end(CONTENT);
  };
  await expect(download(httpSource(url()), file(), { clock, maxBytes: 1_000 })).rejects.toThrow(
    /sends more than 1000 bytes/,
  );
});

test('what is not there and what is forbidden is said once, without the query', async () => {
  for (const [status, code] of [
    [404, 'not_found'],
    [403, 'permission_denied'],
  ] as const) {
    ranges.length = 0;
    answer = (_request, response) => response.writeHead(status).end();
    const failure = await download(httpSource(url()), file(), { clock }).catch((e: unknown) => e);
    expect(failure).toMatchObject({ code });
    expect(String(failure)).not.toContain('secret');
    expect(ranges).toHaveLength(1);
  }
});

test('a server that is away is tried again some times', async () => {
  answer = (_request, response) => response.writeHead(503).end();
  await expect(download(httpSource(url()), file(), { clock, attempts: 3 })).rejects.toThrow('503');
  expect(ranges).toHaveLength(3);
});
