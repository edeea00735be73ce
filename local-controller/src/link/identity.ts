import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { type DetailedPeerCertificate, connect as tlsConnect } from 'node:tls';
import { create } from '@bufbuild/protobuf';
import * as grpc from '@grpc/grpc-js';
import {
  FLEET_METHODS,
  JoinRequestSchema,
  type JoinToken,
  MANAGER_NAME,
  type NodeIdentity,
  RecoverRequestSchema,
  readJoinToken,
} from '@shoal/api';
import {
  certificateDigest,
  createCertificateRequest,
  digestOf,
  fromNode,
  isShoalError,
  type KeyPair,
  messageOf,
  ShoalError,
  signWith,
} from '@shoal/core';

/** Who this node is, as it is kept on its disk. The key must never be logged. */
export interface StoredIdentity extends KeyPair {
  /** PEM of the authority of the cloud. */
  readonly authority: string;
  /** Life of the certificate when it was issued; absent for one made by hand. */
  readonly validForMs?: number;
  /** `host:port` where it was issued: a certificate that ran out is recovered there. */
  readonly fleetServer?: string;
}

const CALL_MS = 15_000;

/** @throws ShoalError when the file cannot be read, or is no identity. */
export function readIdentity(file: string): StoredIdentity {
  let value: Partial<StoredIdentity>;
  try {
    value = JSON.parse(readFileSync(file, 'utf8')) as Partial<StoredIdentity>;
  } catch (error) {
    throw fromNode(error, `reading ${file}`);
  }
  const { certificate, privateKey, authority } = value;
  if (!certificate || !privateKey || !authority)
    throw new ShoalError(
      'data_corrupt',
      `${file} has no certificate, privateKey or authority; join again: shoal join TOKEN`,
    );
  return { ...value, certificate, privateKey, authority };
}

/** Replaces the identity on the disk, whole or not at all. */
export function writeIdentity(file: string, identity: StoredIdentity): void {
  try {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(`${file}.new`, JSON.stringify(identity), { mode: 0o600, flush: true });
    renameSync(`${file}.new`, file);
    // Also the name must be on the disk before anybody goes by what it names.
    const folder = openSync(dirname(file), 'r');
    fsyncSync(folder);
    closeSync(folder);
  } catch (error) {
    throw fromNode(error, `writing ${file}`);
  }
}

export function hasIdentity(file: string): boolean {
  return existsSync(file);
}

/**
 * The authority of the cloud behind an address, if it is the one whose digest is known.
 *
 * @throws ShoalError `unauthenticated` when another one answers, `unavailable` when none does.
 */
async function pinnedAuthority(servers: string, digest: string): Promise<PinnedServer> {
  let failure: unknown;
  for (const server of servers.split(',')) {
    try {
      return { server, authority: await pinnedAt(server.trim(), digest) };
    } catch (error) {
      failure = error;
      if (!isShoalError(error) || error.code !== 'unavailable') throw error;
    }
  }
  throw failure;
}

interface PinnedServer {
  readonly server: string;
  readonly authority: string;
}

async function pinnedAt(server: string, digest: string): Promise<string> {
  const colon = server.lastIndexOf(':');
  const [host, port] = [server.slice(0, colon), Number(server.slice(colon + 1))];
  const chain = await new Promise<DetailedPeerCertificate>((resolve, reject) => {
    const socket = tlsConnect(
      // What is checked is the digest, below; nothing is sent on this connection.
      { host, port, servername: MANAGER_NAME, rejectUnauthorized: false, timeout: CALL_MS },
      () => {
        resolve(socket.getPeerCertificate(true));
        socket.destroy();
      },
    );
    const fail = (why: string): void => {
      socket.destroy();
      reject(new ShoalError('unavailable', `${server} does not answer: ${why}`));
    };
    socket.on('error', (error) => fail(error.message));
    socket.on('timeout', () => fail(`nothing within ${CALL_MS / 1_000} s`));
  });
  for (let link: DetailedPeerCertificate | undefined = chain, i = 0; link && i < 5; i++) {
    if (digestOf(link.raw) === digest) {
      const body = link.raw.toString('base64').replace(/.{64}/g, '$&\n').trimEnd();
      return `-----BEGIN CERTIFICATE-----\n${body}\n-----END CERTIFICATE-----\n`;
    }
    if (link.issuerCertificate === link) break;
    link = link.issuerCertificate;
  }
  throw new ShoalError(
    'unauthenticated',
    `${server} is not the cloud this token is of: its authority has another digest; nothing was sent to it`,
  );
}

async function callFleet<Q>(
  method: 'join' | 'recover',
  request: Q,
  at: { server: string; authority: string },
): Promise<NodeIdentity> {
  const { path, requestSerialize, responseDeserialize } = FLEET_METHODS[method];
  const credentials = grpc.credentials.createSsl(Buffer.from(at.authority));
  const client = new grpc.Client(at.server, credentials, {
    'grpc.ssl_target_name_override': MANAGER_NAME,
  });
  try {
    return await new Promise<NodeIdentity>((resolve, reject) => {
      client.makeUnaryRequest(
        path,
        requestSerialize as unknown as (value: Q) => Buffer,
        responseDeserialize,
        request,
        { deadline: Date.now() + CALL_MS },
        (error, value) => {
          if (value) return resolve(value);
          const refused = error?.code === grpc.status.UNAUTHENTICATED;
          const code = refused ? 'unauthenticated' : 'unavailable';
          reject(new ShoalError(code, error?.details ?? messageOf(error), { cause: error }));
        },
      );
    });
  } finally {
    client.close();
  }
}

/**
 * Makes this machine the node that a token names.
 *
 * @param server `host:port` of the fleet service; default: the one in the token.
 * @returns The identity, and the token’s words.
 * @throws ShoalError `unauthenticated` when the cloud is another one or refuses the token.
 */
export async function join(
  tokenText: string,
  server?: string,
): Promise<{ identity: StoredIdentity; token: JoinToken }> {
  const token = readJoinToken(tokenText);
  const at = server ?? token.server;
  if (at === undefined)
    throw new ShoalError(
      'invalid_argument',
      'this token does not say where the cloud is; name its fleet service with --server HOST:PORT',
    );
  const pinned = await pinnedAuthority(at, token.authority);
  const { request, privateKey } = await createCertificateRequest(`system:node:${token.node}`);
  const message = create(JoinRequestSchema, {
    token: tokenText.trim(),
    certificateRequest: request,
  });
  const issued = await callFleet('join', message, pinned);
  return { token, identity: toStored(issued, { privateKey, fleetServer: at }) };
}

/**
 * Gets a new certificate for one that ran out while there was no network.
 *
 * @throws ShoalError `unauthenticated` when the cloud does not want this node any more.
 */
export async function recover(identity: StoredIdentity): Promise<StoredIdentity> {
  const { fleetServer, certificate, authority } = identity;
  if (fleetServer === undefined)
    throw new ShoalError('failed_precondition', 'it is not known where this certificate is from');
  const { request, privateKey } = await createCertificateRequest('recover');
  const signature = await signWith(identity.privateKey, request);
  const message = create(RecoverRequestSchema, {
    certificate,
    certificateRequest: request,
    signature,
  });
  // Of several replicas, the one that leads.
  const pinned = await pinnedAuthority(fleetServer, certificateDigest(authority));
  const issued = await callFleet('recover', message, pinned);
  return toStored(issued, { privateKey, fleetServer });
}

export function toStored(
  issued: { certificate: string; authority: string; validForMs: bigint },
  own: { privateKey: string; fleetServer: string | undefined },
): StoredIdentity {
  const { certificate, authority } = issued;
  return {
    certificate,
    authority,
    privateKey: own.privateKey,
    validForMs: Number(issued.validForMs),
    ...(own.fleetServer !== undefined && { fleetServer: own.fleetServer }),
  };
}
