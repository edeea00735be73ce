import { createHmac } from 'node:crypto';

/** Name that stands for every job, for operators (`shoal kb`). */
export const EVERY_JOB = '*';

/**
 * The token that opens one job's knowledge: HMAC-SHA256 of the job's name under the key that the
 * global manager and the knowledge base share. Nothing is stored, and one job's token says nothing
 * about another's.
 *
 * @param job A job as {@link knowledgeJob} names it, or {@link EVERY_JOB}.
 */
export function knowledgeToken(key: string, job: string): string {
  return createHmac('sha256', key).update(`shoal knowledge base\n${job}`).digest('base64url');
}

/** Name of a job in the knowledge base; a job made anew under an old name starts afresh. */
export function knowledgeJob(metadata: {
  readonly namespace?: string;
  readonly name: string;
  readonly uid?: string;
}): string {
  return `${metadata.namespace ?? 'default'}/${metadata.name}/${(metadata.uid ?? '').slice(0, 8)}`;
}
