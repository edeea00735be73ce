import { createServer, type Server } from 'node:net';
import { ShoalError } from '@shoal/core';

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

function tryListen(host: string, port: number): Promise<Server | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(undefined));
    server.listen(port, host, () => resolve(server));
  });
}

/**
 * Finds addresses no other cluster on this machine uses: whoever listens on a slot's port has it,
 * and the kernel takes it back from a process that dies.
 *
 * @throws ShoalError when this machine has no loopback addresses besides 127.0.0.1.
 */
export async function takeAddresses(): Promise<Addresses> {
  for (let slot = 0; slot < SLOTS; slot++) {
    const held = await tryListen(`127.98.${slot}.254`, SLOT_PORT);
    if (!held) continue;
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
    'no free loopback addresses: the embedded cluster needs 127.96.0.0/16 to 127.98.0.0/16 (Linux has them; macOS does not), and at most 15 clusters run at once',
  );
}

/** A free port of an address. */
export async function freePort(host: string): Promise<number> {
  const server = await tryListen(host, 0);
  const address = server?.address();
  const port = typeof address === 'object' && address ? address.port : 0;
  await new Promise((resolve) => server?.close(resolve));
  if (port === 0) throw new ShoalError('resource_exhausted', `no free port on ${host}`);
  return port;
}
