import { timingSafeEqual } from 'node:crypto';
import type { ParticipantFrame } from '@shoal/api';
import { digestOf, ShoalError } from '@shoal/core';

type Join = Extract<ParticipantFrame['frame'], { case: 'join' }>['value'];

function sameSecret(a: string, b: string): boolean {
  const [x, y] = [Buffer.from(digestOf(a)), Buffer.from(digestOf(b))];
  return timingSafeEqual(x, y);
}

/**
 * Checks that a participant belongs to a federation.
 *
 * @param wanted.token What it must bring; undefined lets everyone in.
 * @param wanted.names Who may come; undefined: whoever has the token.
 * @throws ShoalError `unauthenticated`, `permission_denied` or `invalid_argument`, saying what does not fit.
 */
export function requireAdmission(
  { job, participant, token, size, layout }: Join,
  wanted: {
    readonly job: string;
    readonly token: string | undefined;
    readonly names?: readonly string[] | undefined;
    readonly layout: string;
  },
): void {
  if (wanted.token !== undefined && !sameSecret(token, wanted.token))
    throw new ShoalError('unauthenticated', 'the token is not this federation’s');
  if (job !== wanted.job)
    throw new ShoalError(
      'permission_denied',
      `participant ${participant} belongs to job "${job}", this is "${wanted.job}"`,
    );
  if (!/^[\w.:-]{1,128}$/.test(participant))
    throw new ShoalError('invalid_argument', `"${participant}" is no name for a participant`);
  if (wanted.names && !wanted.names.includes(participant))
    throw new ShoalError(
      'permission_denied',
      `the job has no participant "${participant}"; it has ${wanted.names.slice(0, 5).join(', ')}${wanted.names.length > 5 ? ` and ${wanted.names.length - 5} more` : ''}`,
    );
  if (layout !== wanted.layout)
    throw new ShoalError(
      'invalid_argument',
      `participant ${participant} has another model: ${size} values of layout ${layout}, wanted is layout ${wanted.layout}`,
    );
}
