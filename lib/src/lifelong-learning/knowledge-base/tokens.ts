import { createHmac, timingSafeEqual } from 'node:crypto';

/** What opens every job, for operators (`shoal kb`). */
export const OPERATOR = '*';

/**
 * The token that opens one job's knowledge: HMAC-SHA256 of the job's name under the key that the
 * global manager and the knowledge base share. Nothing is stored, and one job's token says nothing
 * about another's.
 *
 * @param job A job, or {@link OPERATOR}.
 */
export function knowledgeToken(key: string, job: string): string {
  return createHmac('sha256', key).update(`shoal knowledge base\n${job}`).digest('base64url');
}

function same(a: string, b: string): boolean {
  const [x, y] = [Buffer.from(a), Buffer.from(b)];
  return x.length === y.length && timingSafeEqual(x, y);
}

/** Whether a token opens a job. */
export function opens(key: string, token: string, job: string): boolean {
  const own = same(token, knowledgeToken(key, job));
  return same(token, knowledgeToken(key, OPERATOR)) || (own && job !== OPERATOR);
}
