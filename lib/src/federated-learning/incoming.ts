import type { ParticipantFrame } from '@shoal/api';
import { digester, ShoalError } from '@shoal/core';
import { Intake, MAX_VECTOR_BYTES } from '../transfer/chunks.ts';
import { decompress } from './compression.ts';
import { allFinite } from './kernels.ts';
import type { Rounds } from './rounds.ts';
import type { Upload } from './update-arena.ts';

/** An update on its way in. */
export interface Incoming {
  readonly round: number;
  readonly attempt: number;
  readonly samples: number;
  readonly metrics: Readonly<Record<string, number>>;
  readonly encoding: string;
  readonly intake: Intake;
  /** Where its bytes go; undefined when it has none. */
  readonly upload: Upload | undefined;
}

type Announcement = Extract<ParticipantFrame['frame'], { case: 'update' }>['value'];

/** Scores a participant may report in a round. */
const MAX_METRICS = 32;
/** What fits a 32-bit count; the store and the status hold no more. */
const MAX_SAMPLES = 2n ** 32n - 1n;

/**
 * What a participant says of its round beside the change itself.
 *
 * @throws ShoalError `invalid_argument` naming what cannot be: scores that are no numbers, have no plain name or
 *   are too many, an accuracy outside [0, 1], a count of samples below 1 or above 2³² − 1.
 */
export function requireScores(samples: bigint, metrics: Readonly<Record<string, number>>): void {
  const fault = (what: string): ShoalError => new ShoalError('invalid_argument', what);
  if (samples < 1n) throw fault('an update needs at least one sample');
  if (samples > MAX_SAMPLES) throw fault(`${samples} samples are more than ${MAX_SAMPLES}`);
  const all = Object.entries(metrics);
  if (all.length > MAX_METRICS) throw fault(`${all.length} metrics, at most ${MAX_METRICS}`);
  for (const [name, value] of all) {
    if (!/^[\w./ -]{1,64}$/.test(name))
      throw fault(`"${name.slice(0, 80)}" is no name of a metric`);
    if (!Number.isFinite(value)) throw fault(`metric ${name} is ${value}`);
    if (name === 'accuracy' && (value < 0 || value > 1))
      throw fault(`metric accuracy must be in [0, 1], got ${value}`);
  }
}

/**
 * What an announcement promises; its chunks follow.
 *
 * @throws ShoalError `invalid_argument` for scores or samples that cannot be, `resource_exhausted` for more bytes than any
 *   encoding of the model has.
 */
export function incomingOf(
  update: Announcement,
  rounds: Pick<Rounds, 'size' | 'reserve'>,
): Incoming {
  const { round, attempt, samples, metrics, encoding, bytes, digest } = update;
  requireScores(samples, metrics);
  const limit = Math.min(MAX_VECTOR_BYTES, rounds.size * 8 + 1024);
  let upload: Upload | undefined;
  const put = (data: Uint8Array, at: number): void => upload?.put(data, at);
  const intake = new Intake(digest, Number(bytes), { hash: digester(), limit, put });
  if (bytes > 0n) upload = rounds.reserve({ bytes: Number(bytes), limit });
  return { round, attempt, samples: Number(samples), metrics, encoding, intake, upload };
}

/**
 * Looks at the change an update holds; only scores where only they were asked for.
 *
 * @throws ShoalError `data_corrupt` for NaN, infinities or a wrong length.
 */
export function requireChange(
  { encoding, upload, intake }: Incoming,
  rounds: Pick<Rounds, 'size' | 'isEvaluation' | 'peek'>,
): void {
  if (rounds.isEvaluation) return;
  if (!upload) throw new ShoalError('invalid_argument', 'the update is empty');
  const delta = decompress(encoding, rounds.peek(upload, intake.size), rounds.size);
  if (!allFinite(delta))
    throw new ShoalError('data_corrupt', 'the update holds NaN or infinite values');
}
