import { fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { connect as connectHttp2, createSecureServer, type ServerHttp2Stream } from 'node:http2';
import { createServer as createHttps } from 'node:https';
import type { AddressInfo } from 'node:net';
import * as grpc from '@grpc/grpc-js';
import { createAuthority, issueCertificate, type KeyPair } from '@shoal/core';
import { WebSocket, WebSocketServer } from 'ws';

/**
 * `node e2e/bench/link/idle-sessions.ts`: what an idle, mutually authenticated session costs its server
 * by transport, without anything of ours: what bounds the hollow nodes one manager can hold. Once as
 * it was opened, and once after it has carried what a day of pings does: buffers of TLS fill once.
 */
const COUNT = Number(process.env['SESSIONS'] ?? 2_000);
const MESSAGES = 40;
const MESSAGE = Buffer.alloc(600);
const NAME = 'localhost';

interface Pems {
  readonly authority: string;
  readonly server: KeyPair;
  readonly client: KeyPair;
}

const identity = (bytes: Buffer): Buffer => bytes;
const METHOD = {
  path: '/bench/Session',
  requestStream: true,
  responseStream: true,
  requestSerialize: identity,
  requestDeserialize: identity,
  responseSerialize: identity,
  responseDeserialize: identity,
} as const;

/** Starts a server of a kind; resolves with its port. */
async function serve(kind: string, { authority, server }: Pems): Promise<number> {
  const tls = {
    key: server.privateKey,
    cert: server.certificate,
    ca: authority,
    requestCert: true,
    rejectUnauthorized: true,
  };
  if (kind === 'grpc-js') {
    const service = new grpc.Server({ 'grpc.enable_channelz': 0 });
    service.addService({ session: METHOD } as never, {
      session: (call: grpc.ServerDuplexStream<Buffer, Buffer>) =>
        call.on('data', (data: Buffer) => call.write(data)),
    });
    const pair = {
      private_key: Buffer.from(server.privateKey),
      cert_chain: Buffer.from(server.certificate),
    };
    const credentials = grpc.ServerCredentials.createSsl(Buffer.from(authority), [pair], true);
    return await new Promise((resolve, reject) =>
      service.bindAsync('127.0.0.1:0', credentials, (error, port) =>
        error ? reject(error) : resolve(port),
      ),
    );
  }
  const base = kind === 'http2' ? createSecureServer(tls) : createHttps(tls);
  if (kind === 'http2')
    base.on('stream', (stream: ServerHttp2Stream) => {
      stream.respond({ ':status': 200 });
      stream.on('data', (data: Buffer) => stream.write(data));
    });
  else
    new WebSocketServer({ server: base as never, perMessageDeflate: false }).on(
      'connection',
      (ws) => ws.on('message', (data) => ws.send(data as Buffer)),
    );
  await new Promise<void>((resolve) => base.listen(0, '127.0.0.1', resolve));
  return (base.address() as AddressInfo).port;
}

const kept: unknown[] = [];

interface Echo {
  write(data: Buffer): unknown;
  on(event: 'data', listener: () => void): unknown;
  once(event: 'error', listener: (error: Error) => void): unknown;
}

/** Writes one message after the other, each when the one before has come back. */
async function exchange(echo: Echo, messages: number, message: Buffer): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    let count = 0;
    echo.once('error', reject);
    echo.on('data', () => {
      if (++count === messages) resolve();
      else if (count < messages) echo.write(message);
    });
    echo.write(message);
  });
}

/** Opens one session and waits until a byte has come back. */
async function open(kind: string, port: number, { authority, client }: Pems): Promise<Echo> {
  const tls = { key: client.privateKey, cert: client.certificate, ca: authority, servername: NAME };
  const echo = await new Promise<Echo>((resolve, reject) => {
    if (kind === 'grpc-js') {
      const credentials = grpc.credentials.createSsl(
        Buffer.from(authority),
        Buffer.from(client.privateKey),
        Buffer.from(client.certificate),
      );
      const channel = new grpc.Client(`127.0.0.1:${port}`, credentials, {
        'grpc.ssl_target_name_override': NAME,
        'grpc.use_local_subchannel_pool': 1,
        'grpc.enable_channelz': 0,
      });
      const call = channel.makeBidiStreamRequest(METHOD.path, identity, identity);
      kept.push(channel);
      resolve(call);
    } else if (kind === 'http2') {
      const session = connectHttp2(`https://127.0.0.1:${port}`, tls);
      kept.push(session);
      resolve(session.request({ ':method': 'POST', ':path': '/' }));
    } else {
      const ws = new WebSocket(`wss://127.0.0.1:${port}`, { ...tls, perMessageDeflate: false });
      const asEcho: Echo = {
        write: (data) => ws.send(data),
        on: (_data, listener) => ws.on('message', listener),
        once: (_error, listener) => ws.once('error', listener),
      };
      ws.once('open', () => resolve(asEcho)).once('error', reject);
    }
  });
  await exchange(echo, 1, Buffer.from('x'));
  kept.push(echo);
  return echo;
}

function rssKiB(): number {
  globalThis.gc?.();
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);
}

const [role, kind = ''] = process.argv.slice(2);
if (role === 'server') {
  process.once('message', (pems: Pems) => {
    void serve(kind, pems).then((port) => process.send?.({ port, rss: rssKiB() }));
  });
  process.on('message', (what) => what === 'figures' && process.send?.({ rss: rssKiB() }));
  process.send?.('up');
} else {
  const nowMs = Date.now();
  const authority = await createAuthority('bench', { nowMs, validForMs: 3_600_000 });
  const issue = async (commonName: string, usages: ('server' | 'client')[]): Promise<KeyPair> =>
    await issueCertificate(authority, {
      commonName,
      dnsNames: [NAME],
      usages,
      nowMs,
      validForMs: 3_600_000,
    });
  const pems: Pems = {
    authority: authority.certificate,
    server: await issue(NAME, ['server']),
    client: await issue('node', ['client']),
  };
  for (const transport of ['grpc-js', 'http2', 'ws']) {
    const child = fork(import.meta.filename, ['server', transport], { execArgv: ['--expose-gc'] });
    const next = async <T>(): Promise<T> =>
      await new Promise((r) => child.once('message', (m) => r(m as T)));
    await next();
    child.send(pems);
    const { port, rss: before } = await next<{ port: number; rss: number }>();
    const each = async (): Promise<string> => {
      await new Promise((resolve) => setTimeout(resolve, 3_000));
      child.send('figures');
      const { rss } = await next<{ rss: number }>();
      return ((rss - before) / COUNT).toFixed(0);
    };
    const sessions: Echo[] = [];
    for (let i = 0; i < COUNT; i += 20)
      sessions.push(
        ...(await Promise.all(Array.from({ length: 20 }, () => open(transport, port, pems)))),
      );
    const opened = await each();
    for (let i = 0; i < COUNT; i += 20)
      await Promise.all(sessions.slice(i, i + 20).map((s) => exchange(s, MESSAGES, MESSAGE)));
    console.log(
      `${transport.padEnd(8)} ${opened} KiB for each of ${COUNT}, ${await each()} KiB after ${MESSAGES} messages of ${MESSAGE.length} bytes each way`,
    );
    child.kill('SIGKILL');
  }
  process.exit(0);
}
