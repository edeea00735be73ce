import { isJsonObject, type JsonObject, messageOf, ShoalError } from '@shoal/core';
import { renderTable } from '../terminal/table.ts';
import { type GlobalOptions, withCluster } from './context.ts';

export type EdgeFlags = GlobalOptions & {
  readonly lc?: string;
  readonly node?: string;
  readonly json?: boolean;
};

interface Held {
  readonly namespace: string;
  readonly name: string;
  readonly round: number;
  readonly digest: string;
}

interface Rollouts {
  readonly holding: boolean;
  readonly held: readonly Held[];
}

const CALL_MS = 10_000;
const PORT = 9100;

/** Where the local controller of the machine that is meant listens. */
async function serverOf(flags: EdgeFlags): Promise<string> {
  const { lc, node } = flags;
  if (lc !== undefined) return lc;
  if (node === undefined) return process.env['LC_SERVER'] ?? `http://127.0.0.1:${PORT}`;
  return await withCluster(flags, async ({ resources }) => {
    const found = await resources.get('node', flags.namespace, node);
    const status = isJsonObject(found?.['status']) ? found['status'] : {};
    const { addresses = [] } = status as { addresses?: { type: string; address: string }[] };
    const ip = addresses.find((a) => a.type === 'InternalIP')?.address;
    if (ip === undefined)
      throw new ShoalError('not_found', `this cluster has no node "${node}"; see: shoal node list`);
    return `http://${ip}:${PORT}`;
  });
}

async function ask<T>(flags: EdgeFlags, path: string, body?: JsonObject): Promise<T> {
  const server = await serverOf(flags);
  let response: Response;
  try {
    response = await fetch(`${server}/shoal/edge/${path}`, {
      signal: AbortSignal.timeout(CALL_MS),
      ...(body
        ? {
            method: 'POST',
            headers: { 'Content-Type': 'application/json' },
            body: JSON.stringify(body),
          }
        : {}),
    });
  } catch (error) {
    throw new ShoalError(
      'unavailable',
      `no local controller answers at ${server} (${messageOf(error)}); say where it is with --lc URL or --node NAME`,
    );
  }
  const answer = (await response.json()) as T & { message?: string };
  if (!response.ok)
    throw new ShoalError('permission_denied', answer.message ?? `HTTP ${response.status}`);
  return answer;
}

function table(held: readonly Held[]): string {
  return renderTable([
    ['JOB', 'ROUND', 'MODEL'],
    ...held.map((h) => [`${h.namespace}/${h.name}`, String(h.round), h.digest.slice(7, 19)]),
  ]);
}

/** Models that wait at an edge machine for somebody to let them go on. */
export async function edgeStatusCommand(flags: EdgeFlags): Promise<void> {
  const state = await ask<Rollouts>(flags, 'rollouts');
  if (flags.json) return void process.stdout.write(`${JSON.stringify(state)}\n`);
  const holding = state.holding ? 'New models are held here: shoal edge hold --off\n' : '';
  const waiting =
    state.held.length > 0
      ? `${table(state.held)}\nLet them go on: shoal edge release\n`
      : 'No model waits here.\n';
  process.stdout.write(holding + waiting);
}

/** Lets models go on: of one job, or all. */
export async function edgeReleaseCommand(job: string | undefined, flags: EdgeFlags): Promise<void> {
  const of = job === undefined ? {} : { namespace: flags.namespace, name: job };
  const { released } = await ask<{ released: Held[] }>(flags, 'release', of);
  if (flags.json) return void process.stdout.write(`${JSON.stringify(released)}\n`);
  process.stdout.write(
    released.length > 0 ? `${table(released)}\nreleased\n` : 'No model waits here.\n',
  );
}

/** Holds new models, or takes them again. */
export async function edgeHoldCommand(flags: EdgeFlags & { off?: boolean }): Promise<void> {
  const state = await ask<Rollouts>(flags, 'hold', { on: flags.off !== true });
  if (flags.json) return void process.stdout.write(`${JSON.stringify(state)}\n`);
  process.stdout.write(
    state.holding
      ? 'This machine takes no new models until they are released (shoal edge release).\n'
      : 'This machine takes new models again.\n',
  );
}
