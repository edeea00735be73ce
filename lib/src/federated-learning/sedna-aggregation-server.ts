import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import {
  fromNode,
  isJsonObject,
  type JsonObject,
  type Logger,
  messageOf,
  silentLogger,
} from '@shoal/core';
import { type RawData, type WebSocket, WebSocketServer } from 'ws';

export interface SednaAggregationOptions {
  /** Rounds until participants are told to stop. */
  readonly rounds: number;
  /** Updates a round is made of. */
  readonly participants: number;
  /** Fewest updates a round may end with once its time is over. Default all participants. */
  readonly quorum?: number;
  /** Time of a round from its first update, in milliseconds. Default 10 minutes. */
  readonly deadlineMs?: number;
  /** First part of the path, Sedna's name of the aggregation. Default FedAvg. */
  readonly aggregation?: string;
  readonly host?: string;
  readonly port?: number;
  /** Largest frame. Default 64 MiB; Sedna's own clients stop at 16 MiB. */
  readonly maxFrameBytes?: number;
  readonly logger?: Logger;
  readonly onRound?: (round: number, samples: number) => void;
}

/** Weights as Sedna's clients send them: nested lists, one per layer. */
type Nested = number | readonly Nested[];

interface Update {
  readonly samples: number;
  readonly weights: readonly Nested[];
}

/** Σ n_k·w_k / Σ n_k over nested lists of the same shape. */
function average(updates: readonly Update[]): Nested[] {
  const total = updates.reduce((n, u) => n + u.samples, 0);
  const blend = (parts: readonly Nested[]): Nested => {
    const [first] = parts;
    if (Array.isArray(first))
      return first.map((_, i) => blend(parts.map((p) => (p as readonly Nested[])[i] ?? 0)));
    return parts.reduce<number>(
      (sum, p, k) => sum + (Number(p) * (updates[k]?.samples ?? 0)) / total,
      0,
    );
  };
  return (updates[0]?.weights ?? []).map((_, layer) =>
    blend(updates.map((u) => u.weights[layer] ?? 0)),
  );
}

function textOf(data: RawData): string {
  if (Array.isArray(data)) return Buffer.concat(data).toString('utf8');
  return Buffer.from(data as Buffer).toString('utf8');
}

/** Shape of nested lists as text; different lengths on one level make it differ too. */
function shapeOf(value: Nested): string {
  if (!Array.isArray(value)) return typeof value === 'number' && Number.isFinite(value) ? '' : '!';
  const inner = new Set(value.map(shapeOf));
  return `[${value.length}${inner.size === 1 ? [...inner][0] : inner.size === 0 ? '' : '!'}]`;
}

/**
 * An aggregator for workers built on Sedna's Python library (≥ 0.4): the same path, frames and
 * order of frames as its websocket server, federated averaging weighted by samples. Each client
 * counts once per round; one that leaves may come back under its name.
 */
export class SednaAggregationServer {
  readonly #options: Required<Omit<SednaAggregationOptions, 'logger' | 'onRound'>> &
    Pick<SednaAggregationOptions, 'onRound'>;
  readonly #logger: Logger;
  readonly #http: Server;
  readonly #sockets: WebSocketServer;
  readonly #clients = new Map<string, WebSocket>();
  #updates = new Map<string, Update>();
  #shape: string | undefined;
  #round = 0;
  /** The frame that came last in this round. */
  #last: JsonObject = {};
  #timer: NodeJS.Timeout | undefined;
  readonly #done: Promise<number>;
  #resolve: (rounds: number) => void = () => undefined;

  constructor(options: SednaAggregationOptions) {
    this.#options = {
      aggregation: 'FedAvg',
      host: '127.0.0.1',
      port: 0,
      maxFrameBytes: 64 * 1024 * 1024,
      quorum: options.participants,
      deadlineMs: 600_000,
      ...options,
    };
    this.#logger = options.logger ?? silentLogger;
    this.#done = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    this.#http = createServer((request, response) => this.#answer(request, response));
    this.#sockets = new WebSocketServer({
      server: this.#http,
      path: `/${this.#options.aggregation}`,
      maxPayload: this.#options.maxFrameBytes,
    });
    this.#sockets.on('connection', (socket) => this.#serve(socket));
  }

  /** Starts listening; resolves with the address Sedna calls `ws://host:port/<aggregation>`. */
  start(): Promise<string> {
    const { host, port, aggregation } = this.#options;
    return new Promise((resolve, reject) => {
      this.#http.once('error', (error) =>
        reject(fromNode(error, `the aggregator cannot listen on ${host}:${port}`)),
      );
      this.#http.listen(port, host, () => {
        const address = this.#http.address();
        const bound = typeof address === 'object' && address ? address.port : port;
        resolve(`ws://${host}:${bound}/${aggregation}`);
      });
    });
  }

  /** Resolves with the number of rounds once the last one was sent out. */
  get done(): Promise<number> {
    return this.#done;
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const known = request.method === 'GET' && request.url === `/${this.#options.aggregation}`;
    response.writeHead(known ? 200 : 404, { 'content-type': 'application/json' });
    response.end(
      JSON.stringify(known ? { clients: [...this.#clients.keys()] } : { detail: 'Not Found' }),
    );
  }

  #broadcast(frame: JsonObject): void {
    const text = JSON.stringify(frame);
    for (const socket of this.#clients.values()) socket.send(text);
  }

  #serve(socket: WebSocket): void {
    let client: string | undefined;
    socket.on('message', (data) => {
      try {
        const frame: unknown = JSON.parse(textOf(data));
        if (!isJsonObject(frame)) throw new Error('a frame must be a JSON object');
        if (frame['type'] === 'subscribe') client = this.#subscribe(socket, frame);
        else if (frame['type'] === 'update_weight') this.#update(client, frame);
        else this.#broadcast(frame);
      } catch (error) {
        this.#logger.warn('frame refused', {
          client: client ?? 'unknown',
          reason: messageOf(error),
        });
        socket.send(JSON.stringify({ type: 'error', data: messageOf(error) }));
      }
    });
    socket.on('close', () => {
      if (client !== undefined && this.#clients.get(client) === socket)
        this.#clients.delete(client);
    });
    socket.on('error', (error) => this.#logger.warn('client lost', { reason: error.message }));
  }

  #subscribe(socket: WebSocket, frame: JsonObject): string {
    const id = frame['client_id'];
    if (typeof id !== 'string' || id === '') throw new Error('subscribe needs a client_id');
    this.#broadcast({ type: 'CLIENT_JOIN', data: id });
    this.#clients.set(id, socket);
    this.#broadcast(frame);
    return id;
  }

  #update(subscriber: string | undefined, frame: JsonObject): void {
    const { client, data } = frame;
    if (typeof client !== 'string' || !isJsonObject(data))
      throw new Error('update_weight needs client and data');
    if (subscriber !== undefined && client !== subscriber)
      throw new Error(`${subscriber} sends an update of ${client}`);
    const { num_samples: samples, weights } = data;
    if (typeof samples !== 'number' || !Number.isSafeInteger(samples) || samples < 1)
      throw new Error(`num_samples must be a whole number ≥ 1, got ${JSON.stringify(samples)}`);
    if (!Array.isArray(weights)) throw new Error('weights must be a list of layers');
    const shape = (weights as Nested[]).map(shapeOf).join(' ');
    if (shape.includes('!'))
      throw new Error('weights must be lists of finite numbers of one length');
    this.#shape ??= shape;
    if (shape !== this.#shape)
      throw new Error(`weights have shape ${shape}, the others ${this.#shape}`);
    if (this.#updates.has(client)) return; // counted already in this round
    this.#updates.set(client, { samples, weights: weights as Nested[] });
    this.#last = frame;
    if (this.#updates.size >= this.#options.participants) this.#finish(frame);
    else this.#timer ??= setTimeout(() => this.#overdue(), this.#options.deadlineMs);
  }

  /** Time is over since the first update of a round: it ends with a quorum, else says who is missing. */
  #overdue(): void {
    this.#timer = undefined;
    const { quorum, participants, deadlineMs } = this.#options;
    const missing = [...this.#clients.keys()].filter((c) => !this.#updates.has(c));
    this.#logger.warn('a round waits', {
      round: this.#round + 1,
      updates: this.#updates.size,
      participants,
      quorum,
      missing,
    });
    if (this.#updates.size >= quorum) this.#finish(this.#last);
    else this.#timer = setTimeout(() => this.#overdue(), deadlineMs);
  }

  #finish(last: JsonObject): void {
    const updates = [...this.#updates].toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([, u]) => u);
    this.#updates = new Map();
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#round++;
    const total = updates.reduce((n, u) => n + u.samples, 0);
    const over = this.#round >= this.#options.rounds;
    this.#broadcast({
      ...last,
      type: 'recv_weight',
      round_number: this.#round,
      data: {
        total_sample: total,
        round_number: this.#round,
        weights: average(updates),
        exit_flag: over ? 'ok' : 'continue',
      },
    });
    this.#logger.info('round done', { round: this.#round, samples: total });
    this.#options.onRound?.(this.#round, total);
    if (over) this.#resolve(this.#round);
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer);
    for (const socket of this.#clients.values()) socket.close();
    this.#sockets.close();
    this.#http.closeAllConnections();
    await new Promise<void>((resolve) => this.#http.close(() => resolve()));
  }
}
