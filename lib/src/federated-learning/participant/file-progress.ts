import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fromNode, messageOf, ShoalError } from '@shoal/core';
import { writeDurably } from '../../transfer/durable-file.ts';
import type { Vectors } from '../federated-model.ts';
import type { Pending, ProgressRecord, ProgressStore } from './progress.ts';

interface Head {
  readonly version: 1;
  readonly opened: number;
  readonly pending: readonly (Omit<Pending, 'bytes'> & { readonly bytes: number })[];
  readonly carried: Readonly<Record<string, number>>;
  readonly before: Readonly<Record<string, number>> | undefined;
}

const sizes = (vectors: Vectors): Record<string, number> =>
  Object.fromEntries(Object.entries(vectors).map(([name, v]) => [name, v.length]));

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

function encode({ opened, pending, carried, before }: ProgressRecord): Uint8Array[] {
  const head: Head = {
    version: 1,
    opened,
    pending: pending.map((p) => ({ ...p, bytes: p.bytes.length })),
    carried: sizes(carried),
    before: before && sizes(before),
  };
  const text = Buffer.from(JSON.stringify(head));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  const vectors = [...Object.values(carried), ...Object.values(before ?? {})];
  return [length, text, ...pending.map((p) => p.bytes), ...vectors.map(bytesOf)];
}

function decode(bytes: Uint8Array): ProgressRecord {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 4 + view.readUInt32LE(0);
  const head = JSON.parse(view.toString('utf8', 4, at)) as Head;
  const take = (count: number): Uint8Array<ArrayBuffer> => {
    if (at + count > bytes.length)
      throw new ShoalError('data_corrupt', `it ends after ${bytes.length} bytes`);
    at += count;
    return new Uint8Array(bytes.subarray(at - count, at));
  };
  const vectors = (of: Readonly<Record<string, number>>): Vectors =>
    Object.fromEntries(
      Object.entries(of).map(([name, size]) => [name, new Float32Array(take(size * 4).buffer)]),
    );
  const pending = head.pending.map((p) => ({ ...p, bytes: take(p.bytes) }));
  const carried = vectors(head.carried);
  return { opened: head.opened, pending, carried, before: head.before && vectors(head.before) };
}

/**
 * A participant's progress in a folder of its own.
 *
 * @throws ShoalError when the folder cannot be written; `data_corrupt` when what is there is no progress.
 */
export function fileProgress(dir: string): ProgressStore {
  const path = join(dir, 'progress');
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw fromNode(error, `making the folder for the participant's progress ${dir}`);
  }
  return {
    load: () => {
      let bytes: Uint8Array;
      try {
        bytes = readFileSync(path);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
        throw fromNode(error, `reading ${path}`);
      }
      try {
        return decode(bytes);
      } catch (error) {
        throw new ShoalError(
          'data_corrupt',
          `${path} is not a participant's progress (${messageOf(error)}); remove it to begin anew`,
          { cause: error },
        );
      }
    },
    save: (record) => writeDurably(path, encode(record)),
  };
}

/** Removes a participant's progress: its federation is over. */
export function removeProgress(dir: string): void {
  rmSync(dir, { recursive: true, force: true });
}
