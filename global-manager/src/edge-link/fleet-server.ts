import { timingSafeEqual } from 'node:crypto';
import { request as httpRequest } from 'node:http';
import { create } from '@bufbuild/protobuf';
import * as grpc from '@grpc/grpc-js';
import {
  type AskChunk,
  AskChunkSchema,
  type AskRequest,
  FLEET_METHODS,
  fleetToken,
  type JoinRequest,
  type LinksReply,
  LinksReplySchema,
  type NodeIdentity,
  NodeIdentitySchema,
  type RecoverRequest,
  type RelayStream,
  type RevokeReply,
  RevokeReplySchema,
  type RevokeRequest,
} from '@shoal/api';
import { duplexOf, type KeyPair, type Logger, ShoalError } from '@shoal/core';
import { toStatus } from './grpc-status.ts';
import type { LinkHub } from './hub.ts';
import type { IssuedIdentity, NodeRegistry } from './node-registry.ts';
import type { RelayHub } from './relay-hub.ts';

export interface FleetServerOptions {
  readonly address: string;
  readonly tls: KeyPair;
  /** Key of the operator’s token. */
  readonly key: string;
  readonly registry: NodeRegistry;
  readonly hub: LinkHub;
  readonly relay: RelayHub;
  readonly logger: Logger;
}

const MAX_MESSAGE_BYTES = 64 * 1024;

/** Joining, and what operators ask: `api/proto/fleet.proto`. */
export class FleetServer {
  readonly #options: FleetServerOptions;
  readonly #server: grpc.Server;

  constructor(options: FleetServerOptions) {
    this.#options = options;
    this.#server = new grpc.Server({
      'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
    });
    const { registry } = options;
    type Unary<Q, S> = (call: grpc.ServerUnaryCall<Q, S>, done: grpc.sendUnaryData<S>) => void;
    const join: Unary<JoinRequest, NodeIdentity> = (call, done) =>
      void answerWith(done, async () => {
        const { token, certificateRequest } = call.request;
        return toWire(await registry.join(token, certificateRequest));
      });
    const recover: Unary<RecoverRequest, NodeIdentity> = (call, done) =>
      void answerWith(done, async () => {
        const { certificate, certificateRequest, signature } = call.request;
        return toWire(await registry.recover(certificate, certificateRequest, signature));
      });
    const links: Unary<unknown, LinksReply> = (call, done) =>
      void answerWith(done, () => {
        this.#expectOperator(call.metadata);
        return this.#links();
      });
    const revoke: Unary<RevokeRequest, RevokeReply> = (call, done) =>
      void answerWith(done, () => {
        this.#expectOperator(call.metadata);
        return this.#revoke(call.request.node);
      });
    this.#server.addService(FLEET_METHODS as unknown as grpc.ServiceDefinition, {
      join,
      recover,
      links,
      revoke,
      ask: (call: grpc.ServerWritableStream<AskRequest, AskChunk>) => void this.#ask(call),
    });
  }

  /** Starts listening; resolves with the port. @throws ShoalError when the address is taken. */
  listen(): Promise<number> {
    const { address, tls, registry } = this.#options;
    const pair = {
      private_key: Buffer.from(tls.privateKey),
      // With its authority: who joins knows that by its digest only.
      cert_chain: Buffer.from(`${tls.certificate}${registry.authority}`),
    };
    const credentials = grpc.ServerCredentials.createSsl(null, [pair]);
    return new Promise((resolve, reject) => {
      this.#server.bindAsync(address, credentials, (error, port) => {
        if (!error) return resolve(port);
        const why = `the fleet service cannot listen on ${address}: ${error.message}`;
        reject(new ShoalError('failed_precondition', why, { cause: error }));
      });
    });
  }

  #expectOperator(metadata: grpc.Metadata): void {
    const [header] = metadata.get('authorization');
    const token = typeof header === 'string' ? /^Bearer (.+)$/.exec(header)?.[1] : undefined;
    const [a, b] = [Buffer.from(fleetToken(this.#options.key)), Buffer.from(token ?? '')];
    if (a.length !== b.length || !timingSafeEqual(a, b))
      throw new ShoalError('unauthenticated', 'this needs the operator’s token of the fleet');
  }

  #links(): LinksReply {
    const { hub, registry } = this.#options;
    const nodes = hub.status(registry.nodes()).map((link) => {
      const { state, remainingMs } = registry.certificateOf(link.node);
      return {
        node: link.node,
        connected: link.connectedForMs !== undefined,
        connectedForMs: BigInt(Math.round(link.connectedForMs ?? 0)),
        epoch: BigInt(link.epoch),
        head: BigInt(link.head),
        lag: BigInt(link.lag),
        outboxRecords: BigInt(link.outbox.records),
        outboxAgeMs: BigInt(Math.round(link.outbox.ageMs)),
        outboxDropped: BigInt(link.outbox.dropped),
        refused: BigInt(link.refusals),
        lastError: link.lastError ?? '',
        version: link.version,
        certificate: state,
        certificateRemainingMs: BigInt(Math.round(remainingMs)),
      };
    });
    return create(LinksReplySchema, { nodes });
  }

  #revoke(node: string): RevokeReply {
    const { hub, registry } = this.#options;
    const wasConnected = hub.connectedForMs(node) !== undefined;
    const known = registry.nodes();
    if (!hub.status(known).some((l) => l.node === node))
      throw new ShoalError('not_found', `no node "${node}" ever joined this cloud`);
    return create(RevokeReplySchema, { certificates: registry.revoke(node), wasConnected });
  }

  /** Fetches a path of a node’s operator API over the node’s own connection. */
  async #ask(call: grpc.ServerWritableStream<AskRequest, AskChunk>): Promise<void> {
    const fail = (error: unknown): void => void call.emit('error', toStatus(error));
    const { node, path } = call.request;
    let stream: RelayStream;
    try {
      this.#expectOperator(call.metadata);
      if (!/^\/(metrics$|healthz$|shoal\/logs\/[\x21-\x7e]{1,1000}$)/.test(path))
        throw new ShoalError('invalid_argument', `"${path}" cannot be asked for`);
      stream = await this.#options.relay.open(node, 'operator-api');
    } catch (error) {
      fail(error);
      return;
    }
    const asked = httpRequest({
      path,
      host: node,
      createConnection: () => duplexOf(stream),
    });
    call.on('cancelled', () => asked.destroy());
    asked.on('error', (error) => fail(new ShoalError('unavailable', error.message)));
    asked.on('response', (response) => {
      response.on('error', fail);
      response.on('aborted', () => fail(new ShoalError('unavailable', `node ${node} is gone`)));
      const isGood = response.statusCode === 200;
      const parts: Buffer[] = [];
      response.on('data', (data: Buffer) => {
        if (!isGood) parts.push(data);
        else if (!call.write(create(AskChunkSchema, { data }))) {
          response.pause();
          call.once('drain', () => response.resume());
        }
      });
      response.on('end', () => {
        if (isGood) {
          call.end();
          return;
        }
        const said = Buffer.concat(parts).toString('utf8').slice(0, 500);
        fail(new ShoalError(response.statusCode === 404 ? 'not_found' : 'unavailable', said));
      });
    });
    asked.end();
  }

  close(): void {
    this.#server.forceShutdown();
  }
}

function toWire(identity: IssuedIdentity): NodeIdentity {
  return create(NodeIdentitySchema, {
    certificate: identity.certificate,
    authority: identity.authority,
    validForMs: BigInt(identity.validForMs),
  });
}

async function answerWith<T>(
  done: grpc.sendUnaryData<T>,
  body: () => T | Promise<T>,
): Promise<void> {
  try {
    done(null, await body());
  } catch (error) {
    done(toStatus(error));
  }
}
