import { timingSafeEqual } from 'node:crypto';
import { EVERY_JOB, knowledgeToken } from '@shoal/api';

function same(a: string, b: string): boolean {
  const [x, y] = [Buffer.from(a), Buffer.from(b)];
  return x.length === y.length && timingSafeEqual(x, y);
}

/** Whether a token opens a job. */
export function opens(key: string, token: string, job: string): boolean {
  const own = same(token, knowledgeToken(key, job));
  return same(token, knowledgeToken(key, EVERY_JOB)) || (own && job !== EVERY_JOB);
}
