import { messageOf, ShoalError } from '@shoal/core';
import { runCase } from '../case-process/run-case.ts';
import type { ParadigmName } from '../config/algorithm.ts';
import type { CaseContext } from '../paradigms/case-context.ts';
import type { Observations } from '../paradigms/observations.ts';
import type { PlannedCase } from '../plan/planned-case.ts';
import { blackened, referencesIn, secretsOf } from '../plan/secrets.ts';
import type { PlaceRunner } from '../runs/run-job.ts';
import type { ClusterAccess, ClusterCase } from './access.ts';
import { classIncrementalOnCluster } from './class-incremental.ts';
import { federatedOnCluster } from './federated.ts';
import { incrementalOnCluster } from './incremental.ts';
import { jointInferenceOnCluster } from './joint-inference.ts';
import { lifelongOnCluster } from './lifelong.ts';
import { multiEdgeOnCluster } from './multi-edge.ts';
import { singleTaskOnCluster } from './single-task.ts';

type ClusterParadigm = (c: ClusterCase) => Promise<Observations>;

const PARADIGMS: Readonly<Record<ParadigmName, ClusterParadigm>> = {
  jointinference: jointInferenceOnCluster,
  incrementallearning: incrementalOnCluster,
  federatedlearning: federatedOnCluster,
  federatedclassincrementallearning: classIncrementalOnCluster,
  lifelonglearning: lifelongOnCluster,
  singletasklearning: singleTaskOnCluster,
  multiedgeinference: multiEdgeOnCluster,
};

/** Runs cases as real jobs on a cluster, one after another; what they leave behind is read from it. */
export function clusterPlace(access: ClusterAccess): PlaceRunner {
  const onCluster =
    (run: ClusterParadigm, { id }: PlannedCase, timeLimitSeconds: number) =>
    async (context: CaseContext): Promise<Observations> =>
      await run({ access, context, data: context.data, name: `bench-${id}`, timeLimitSeconds });
  return async (planned, { signal, timeLimitSeconds, onProgress }) => {
    const startedAt = performance.now();
    const seconds = (): number => (performance.now() - startedAt) / 1000;
    const run = PARADIGMS[planned.algorithm.paradigm];
    const limit = AbortSignal.timeout(timeLimitSeconds * 1000);
    try {
      if (secretsOf(planned, process.env).length > 0 || referencesIn(planned).length > 0)
        throw new ShoalError(
          'unsupported',
          'a case with secrets runs in processes only: whoever may read pods would read them',
        );
      const processor = planned.algorithm.modules.find((m) => m.type === 'dataset_processor');
      if (processor)
        throw new ShoalError(
          'unsupported',
          `dataset_processor "${processor.name}" runs in processes only: pods read their samples themselves`,
        );
      const outcome = await runCase(planned, {
        signal: AbortSignal.any([signal, limit]),
        environment: process.env,
        progress: (share, text = '') => onProgress(share, text),
        paradigm: onCluster(run, planned, timeLimitSeconds),
      });
      return { state: 'done', outcome, seconds: seconds() };
    } catch (error) {
      const late =
        limit.aborted || (error instanceof ShoalError && error.code === 'deadline_exceeded');
      if (late)
        return {
          state: 'timeout',
          error: `took longer than ${timeLimitSeconds} s; raise time_limit_seconds`,
          seconds: seconds(),
        };
      const why = blackened(messageOf(error), secretsOf(planned, process.env));
      return { state: 'failed', error: why, seconds: seconds() };
    }
  };
}
