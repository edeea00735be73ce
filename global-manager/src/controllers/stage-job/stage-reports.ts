import { recordKey, type StageReport } from '@shoal/api';
import type { Records } from '../../edge-link/records.ts';
import type { StagePosition } from '../../stages/machine.ts';
import type { StageJob } from './stage-job.ts';

/** What nodes say of the stage a job is in. */
export class StageReports {
  readonly #records: Records;
  readonly #kind: string;
  readonly #job: StageJob;
  readonly #position: StagePosition;

  constructor(
    records: Records,
    of: { readonly kind: string; readonly job: StageJob; readonly position: StagePosition },
  ) {
    this.#records = records;
    this.#kind = of.kind;
    this.#job = of.job;
    this.#position = of.position;
  }

  #of(node: string | undefined, part: string): StageReport | undefined {
    if (node === undefined) return undefined;
    const key = recordKey(this.#kind, this.#job.metadata, part);
    const report = this.#records.record<StageReport>(node, key);
    const fits =
      report?.uid === this.#job.metadata.uid &&
      report?.round === this.#position.round &&
      report.stage === this.#position.stage;
    return fits ? report : undefined;
  }

  /** What the dataset's node says of this stage, or, once its worker ended, the worker's node. */
  stage(at: {
    readonly datasetNode: string | undefined;
    readonly workerNode: string | undefined;
  }): StageReport | undefined {
    const { stage } = this.#position;
    const byWorker = stage === 'Deploy' ? undefined : this.#of(at.workerNode, stage);
    return byWorker && byWorker.status !== 'ready' ? byWorker : this.#of(at.datasetNode, stage);
  }

  /** What the serving nodes say: a failure of any, else completed once all are. */
  deployment(nodes: readonly (string | undefined)[]): StageReport | undefined {
    if (this.#position.stage !== 'Deploy') return undefined;
    const reports = nodes.map((node) => this.#of(node, 'Serving'));
    const failed = reports.find((r) => r?.status === 'failed');
    if (failed) return failed;
    return reports.length === 0 || reports.includes(undefined) ? undefined : reports[0];
  }
}
