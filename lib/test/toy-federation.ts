import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { digestOf } from '@shoal/core';
import {
  AggregationServer,
  type AggregationServerOptions,
  type FederatedModel,
  type FederationResult,
  type LayoutEntry,
  nodePlatform,
  Participant,
  type ParticipantOptions,
  socketTransport,
} from '../src/index.ts';

export const SIZE: number = 3_000;
export const LAYOUT: readonly LayoutEntry[] = [{ name: 'w', shape: [SIZE] }];

/** A model whose local training is arithmetic: the change depends on name, round and model only. */
export class ToyModel implements FederatedModel {
  readonly layout: readonly LayoutEntry[] = LAYOUT;
  readonly size: number = SIZE;
  readonly samples: number;
  readonly #id: number;
  readonly #before: (round: number) => Promise<void>;
  readonly trained: number[] = [];

  constructor(id: number, before: (round: number) => Promise<void> = () => Promise.resolve()) {
    this.#id = id;
    this.samples = 10 * id;
    this.#before = before;
  }

  initial(): Float32Array {
    return Float32Array.from({ length: SIZE }, (_, i) => Math.sin(i));
  }

  async train(
    vector: Float32Array,
    task: { round: number; evaluateOnly: boolean },
  ): Promise<{
    delta: Float32Array;
    samples: number;
    metrics: Record<string, number>;
  }> {
    await this.#before(task.round);
    this.trained.push(task.round);
    const metrics = { loss: 1 / task.round, accuracy: task.round / 10 };
    if (task.evaluateOnly) return { delta: new Float32Array(), samples: this.samples, metrics };
    const delta = vector.map((v, i) => Math.cos(i * this.#id + task.round) * 0.1 - v * 0.01);
    return { delta, samples: this.samples, metrics };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

export const cleanups: (() => Promise<void> | void)[] = [];
/** Ends what the helpers below started. */
export async function cleanUp(): Promise<void> {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
}

export function folder(): string {
  const dir = mkdtempSync(join(tmpdir(), 'shoal-federated-'));
  cleanups.push(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

export function options(over: Partial<AggregationServerOptions> = {}): AggregationServerOptions {
  return {
    job: 'toy',
    rounds: 4,
    participants: 3,
    deadlineMs: 10_000,
    dir: folder(),
    initial: new ToyModel(1).initial(),
    layout: LAYOUT,
    ...over,
  };
}

export async function serve(
  over: Partial<AggregationServerOptions> = {},
): Promise<{ server: AggregationServer; address: string }> {
  const server = new AggregationServer(options(over));
  const address = await server.start();
  cleanups.push(() => server.close());
  return { server, address };
}

export function join_(
  address: string,
  model: FederatedModel,
  id: number | string,
  over: Partial<ParticipantOptions> & { authority?: string } = {},
): {
  done: Promise<{ reason: string; rounds: number }>;
  stop: () => void;
} {
  const stopping = new AbortController();
  const participant = new Participant(
    {
      transport: socketTransport(address, over.authority ? { authority: over.authority } : {}),
      platform: nodePlatform,
      job: 'toy',
      participant: `p${id}`,
      ...over,
    },
    model,
  );
  const done = participant.run(stopping.signal);
  done.catch(() => undefined);
  cleanups.push(() => stopping.abort(new Error('test over')));
  return { done, stop: () => stopping.abort(new Error('stopped')) };
}

export async function undisturbed(
  over: Partial<AggregationServerOptions> = {},
): Promise<FederationResult> {
  const { server, address } = await serve(over);
  for (const id of [1, 2, 3]) join_(address, new ToyModel(id), id);
  return await server.done;
}

export const digestOfModel = (r: { model: Float32Array }): string =>
  digestOf(new Uint8Array(r.model.buffer, r.model.byteOffset, r.model.byteLength));
