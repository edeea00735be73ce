import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { pbkdf2Sync, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Aedes } from 'aedes';
import { connectAsync, type MqttClient } from 'mqtt';

/** What stands behind the address. */
interface Behind {
  readonly port: number;
  publish(topic: string, payload: string): Promise<void>;
  stop(): Promise<void>;
}

const MOSQUITTO = ['/usr/sbin/mosquitto', '/usr/bin/mosquitto', '/usr/local/sbin/mosquitto'];

/** Path of mosquitto, where it is installed: a broker that says when it repeats itself. */
export const mosquitto: string | undefined = MOSQUITTO.find(
  (path) => spawnSync(path, ['-h']).error === undefined,
);

/** A broker in this process. It does not set DUP on what it sends again (moscajs/aedes#601). */
async function aedes(): Promise<Behind> {
  const broker = await Aedes.createBroker();
  broker.authenticate = (_client, user, password, done) =>
    done(null, user === 'node' && String(password) === 'secret');
  const server = createServer(broker.handle);
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return {
    port: (server.address() as { port: number }).port,
    publish: async (topic, payload) => {
      const packet = { cmd: 'publish', qos: 1, dup: false, retain: false, topic } as const;
      await new Promise<void>((resolve, reject) => {
        broker.publish({ ...packet, payload: Buffer.from(payload) }, (error) =>
          error ? reject(error) : resolve(),
        );
      });
    },
    stop: async () => {
      server.close();
      await new Promise<void>((resolve) => broker.close(() => resolve()));
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const { port } = server.address() as { port: number };
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return port;
}

/** A password as mosquitto keeps it: PBKDF2-SHA512 with 101 rounds. */
function hashed(password: string): string {
  const salt = randomBytes(12);
  const digest = pbkdf2Sync(password, salt, 101, 64, 'sha512');
  return `$7$101$${salt.toString('base64')}$${digest.toString('base64')}`;
}

async function mosquittoBroker(path: string): Promise<Behind> {
  const folder = mkdtempSync(join(tmpdir(), 'shoal-mosquitto-'));
  const port = await freePort();
  const passwords = join(folder, 'passwords');
  writeFileSync(passwords, `node:${hashed('secret')}\n`);
  const config = [
    `listener ${port} 127.0.0.1`,
    'allow_anonymous false',
    `password_file ${passwords}`,
    'max_queued_messages 0',
    'persistence false',
    ...(process.getuid?.() === 0 ? ['user root'] : []),
  ];
  writeFileSync(join(folder, 'mosquitto.conf'), `${config.join('\n')}\n`);
  const child: ChildProcess = spawn(path, ['-c', join(folder, 'mosquitto.conf')]);
  let client: MqttClient | undefined;
  for (let i = 0; !client && i < 100; i++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    client = await connectAsync(`mqtt://127.0.0.1:${port}`, {
      username: 'node',
      password: 'secret',
    }).catch(() => undefined);
  }
  return {
    port,
    publish: async (topic, payload) =>
      void (await client?.publishAsync(topic, payload, { qos: 1 })),
    stop: async () => {
      await client?.endAsync(true);
      const ended = once(child, 'exit');
      child.kill();
      await ended;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/**
 * A real MQTT broker on loopback, which lets in user `node` with password `secret`, behind an address
 * whose connections can be cut.
 */
export class MqttBroker {
  readonly port: number;
  readonly #behind: Behind;
  readonly #proxy: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(behind: Behind, proxy: Server) {
    this.#behind = behind;
    this.#proxy = proxy;
    this.port = (proxy.address() as { port: number }).port;
    proxy.on('connection', (socket) => {
      const up = connect(behind.port, '127.0.0.1');
      for (const end of [socket, up]) {
        this.#sockets.add(end);
        end.on('error', () => undefined);
        end.on('close', () => this.#sockets.delete(end));
      }
      socket.on('close', () => up.destroy());
      up.on('close', () => socket.destroy());
      socket.pipe(up).pipe(socket);
    });
  }

  get address(): string {
    return `mqtt://127.0.0.1:${this.port}`;
  }

  /** @param options.path Mosquitto, where it is to be the broker. */
  static async start(options: { port?: number; path?: string } = {}): Promise<MqttBroker> {
    const behind = options.path ? await mosquittoBroker(options.path) : await aedes();
    const proxy = createServer();
    await once(proxy.listen(options.port ?? 0, '127.0.0.1'), 'listening');
    return new MqttBroker(behind, proxy);
  }

  async publish(topic: string, payload: string): Promise<void> {
    await this.#behind.publish(topic, payload);
  }

  /** Ends every connection of subscribers; the broker stays. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async stop(): Promise<void> {
    this.#proxy.close();
    this.cut();
    await this.#behind.stop();
  }
}
