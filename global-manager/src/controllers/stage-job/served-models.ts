import { type ModelReport, recordKey } from '@shoal/api';
import type { Records } from '../../edge-link/records.ts';
import { workOf } from '../job-nodes.ts';
import type { ServedModel, StageJob } from './stage-job.ts';

/** Models that were served; the one the job began with is known once it is about to be replaced. */
export function servedHistory(
  records: Records,
  kind: string,
  job: StageJob,
): readonly ServedModel[] | undefined {
  if (job.status?.models) return job.status.models;
  const [initial] = records
    .said<ModelReport>(workOf(kind, job), 'Initial')
    .filter((r) => r.body.uid === job.metadata.uid);
  if (!initial) return undefined;
  const { startTime } = job.status ?? {};
  return [
    { digest: initial.body.digest, round: 0, ...(startTime ? { deployedAt: startTime } : {}) },
  ];
}

/** Whether every one of these nodes says that it serves the pinned model. */
export function isPinnedOn(
  nodes: readonly (string | undefined)[],
  pin: string,
  at: { readonly records: Records; readonly kind: string; readonly job: StageJob },
): boolean {
  const { records, kind, job } = at;
  const key = recordKey(kind, job.metadata, 'Pinned');
  const isThere = (node: string | undefined): boolean => {
    const report = node === undefined ? undefined : records.record<ModelReport>(node, key);
    // What was said before this spec was about another pin, or an earlier time of this one.
    const isOfNow = (report?.generation ?? 0) >= (job.metadata.generation ?? 0);
    return report?.uid === job.metadata.uid && report?.digest === pin && isOfNow;
  };
  return nodes.length > 0 && nodes.every(isThere);
}
