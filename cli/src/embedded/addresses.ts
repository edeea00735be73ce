import { createServer, type Server } from 'node:net';
import { errnoOf, ShoalError } from '@shoal/core';

/** Addresses of one embedded cluster; several clusters on one machine get different slots. */
export interface Addresses {
  readonly slot: number;
  /** Address of the i-th node. */
  readonly node: (index: number) => string;
  /** Third octet of the i-th node's pod addresses. */
  readonly podSubnet: (index: number) => number;
  /** Third octets of service addresses. */
  readonly serviceSubnets: { readonly first: number; readonly count: number };
  /** Address of the global manager, and of what is beside it. */
  readonly manager: string;
  /** Where the i-th manager waits for edges. */
  readonly managers: (index: number) => string;
  release(): void;
}

const SLOTS = 15;
const SLOT_PORT = 9_999;
export const MAX_NODES = 16;

/** @returns The server, or the error number of the system that keeps it from listening. */
function tryListen(host: string, port: number): Promise<Server | string> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', (error) => resolve(errnoOf(error) ?? 'unknown'));
    server.listen(port, host, () => resolve(server));
  });
}

/**
 * What gives a machine with one loopback address (macOS) those that a small cluster uses: three
 * nodes with eight pods each, and sixteen services.
 */
const ADD_ADDRESSES =
  'for a in 127.98.0.{1..4} 127.98.0.{253,254} 127.97.{0..3}.{1..8} 127.96.0.{1..16}; do sudo ifconfig lo0 alias $a; done';

/**
 * Finds addresses no other cluster on this machine uses: whoever listens on a slot's port has it,
 * and the kernel takes it back from a process that dies.
 *
 * @throws ShoalError `failed_precondition` when this machine has no loopback addresses besides
 *   127.0.0.1: the message holds the command that adds some.
 */
export async function takeAddresses(): Promise<Addresses> {
  for (let slot = 0; slot < SLOTS; slot++) {
    const held = await tryListen(`127.98.${slot}.254`, SLOT_PORT);
    if (held === 'EADDRNOTAVAIL' && slot === 0) {
      throw new ShoalError(
        'failed_precondition',
        `this machine answers on 127.0.0.1 only; nodes, pods and services of the embedded cluster have loopback addresses of their own. On macOS add some (they last until a restart), then try again:\n  ${ADD_ADDRESSES}`,
      );
    }
    if (typeof held === 'string') continue;
    return {
      slot,
      node: (index) => `127.98.${slot}.${index + 1}`,
      podSubnet: (index) => slot * MAX_NODES + index,
      serviceSubnets: { first: slot * MAX_NODES, count: MAX_NODES },
      manager: `127.98.${slot}.253`,
      managers: (index) => `127.98.${slot}.${253 - index}`,
      release: () => held.close(),
    };
  }
  throw new ShoalError(
    'resource_exhausted',
    `no free loopback addresses: at most ${SLOTS} embedded clusters run at once on one machine`,
  );
}

/** A free port of an address. */
export async function freePort(host: string): Promise<number> {
  const listening = await tryListen(host, 0);
  const server = typeof listening === 'string' ? undefined : listening;
  const address = server?.address();
  const port = typeof address === 'object' && address ? address.port : 0;
  await new Promise((resolve) => server?.close(resolve));
  if (port === 0) throw new ShoalError('resource_exhausted', `no free port on ${host}`);
  return port;
}
