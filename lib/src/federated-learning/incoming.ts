import type { ParticipantFrame } from '@shoal/api';
import { digester, ShoalError } from '@shoal/core';
import { Assembly, MAX_VECTOR_BYTES } from '../transfer/chunks.ts';
import { decompress } from './compression.ts';
import { allFinite } from './kernels.ts';

/** An update on its way in. */
export interface Incoming {
  readonly round: number;
  readonly attempt: number;
  readonly samples: number;
  readonly metrics: Readonly<Record<string, number>>;
  readonly encoding: string;
  readonly assembly: Assembly;
}

type Announcement = Extract<ParticipantFrame['frame'], { case: 'update' }>['value'];

/**
 * What an announcement promises; its chunks follow.
 *
 * @param size Values of the model.
 * @throws ShoalError `invalid_argument` without samples, `resource_exhausted` for more bytes than any
 *   encoding of the model has.
 */
export function incomingOf(update: Announcement, size: number): Incoming {
  const { round, attempt, samples, metrics, encoding, bytes, digest } = update;
  if (samples < 1n) throw new ShoalError('invalid_argument', 'an update needs at least one sample');
  const limit = Math.min(MAX_VECTOR_BYTES, size * 8 + 1024);
  return {
    round,
    attempt,
    samples: Number(samples),
    metrics,
    encoding,
    assembly: new Assembly(digest, Number(bytes), { hash: digester(), limit }),
  };
}

/**
 * The change an update holds; empty where only scores were asked for.
 *
 * @throws ShoalError `data_corrupt` for NaN, infinities or a wrong length, `invalid_argument` for scores that
 *   are no numbers.
 */
export function decodeUpdate(
  { metrics, encoding }: Incoming,
  bytes: Uint8Array,
  wanted: { readonly size: number; readonly isEvaluation: boolean },
): Float32Array {
  for (const [name, value] of Object.entries(metrics))
    if (!Number.isFinite(value))
      throw new ShoalError('invalid_argument', `metric ${name} is ${value}`);
  if (wanted.isEvaluation) return new Float32Array();
  if (bytes.length === 0) throw new ShoalError('invalid_argument', 'the update is empty');
  const delta = decompress(encoding, bytes, wanted.size);
  if (!allFinite(delta))
    throw new ShoalError('data_corrupt', 'the update holds NaN or infinite values');
  return delta;
}
