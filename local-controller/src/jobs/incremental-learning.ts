import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path/posix';
import {
  hotUpdateFolder,
  type IncrementalAssignment,
  recordKey,
  type StageModel,
  type StageReport,
} from '@shoal/api';
import { type Clock, type Logger, messageOf } from '@shoal/core';
import { datasetFormat } from '../dataset/formats.ts';
import type { DatasetMonitor } from '../dataset/monitor.ts';
import { divide, readRanges, type SampleRange, writeLines } from '../dataset/split.ts';
import type { Link } from '../link/link.ts';
import { installHotUpdate } from '../model/hot-update.ts';
import { type ModelStore, placeFile } from '../model/model-store.ts';
import type { EdgeDatabase } from '../store/database.ts';
import { decide, deltaFigures } from '../trigger/trigger.ts';

export interface JobPorts {
  readonly db: EdgeDatabase;
  readonly link: Link;
  readonly monitor: DatasetMonitor;
  readonly models: ModelStore;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly hostPath: (path: string) => string;
}

/** What the node remembers of a job between restarts. */
interface Progress {
  /** Samples used up by rounds that were trained. */
  readonly consumed: number;
  /** The range handed to the round that is not trained yet, and what was said of it. */
  readonly offered?: {
    readonly round: number;
    readonly range: SampleRange;
    readonly report: Offer;
  };
  /** Evaluation samples of the newest rounds. */
  readonly evaluation: readonly SampleRange[];
  /** The model this node knows to be deployed; training goes on from it. */
  readonly deployed?: StageModel;
  /** The model this node last offered for deployment. */
  readonly candidate?: { readonly digest: string; readonly model: StageModel };
  /** The model installed on this node for serving. */
  readonly installed?: { readonly digest: string; readonly round: number };
}

type Offer = Omit<StageReport, 'uid' | 'round' | 'stage'>;

/** Rounds whose evaluation samples are kept. */
const EVALUATION_ROUNDS = 5;
const KIND = 'IncrementalLearningJob';
const EMPTY: Progress = { consumed: 0, evaluation: [] };

/** What a worker said, as the worker API hands it on. */
export interface WorkerReport {
  readonly kind: string;
  readonly status: string | undefined;
  readonly results: readonly StageModel[];
  readonly ownerInfo: Readonly<Record<string, unknown>>;
}

/** A node's part in an incremental learning job: triggers, samples, evaluation, hot update. */
export class IncrementalLearningJobs {
  readonly #ports: JobPorts;
  readonly #lastCheck = new Map<string, number>();
  readonly #busy = new Set<string>();

  constructor(ports: JobPorts) {
    this.#ports = ports;
  }

  #key(job: IncrementalAssignment): string {
    return `il/${job.metadata.uid}`;
  }

  #progress(job: IncrementalAssignment): Progress {
    return this.#ports.db.progress<Progress>(this.#key(job)) ?? EMPTY;
  }

  #save(job: IncrementalAssignment, change: Partial<Progress>): void {
    this.#ports.db.setProgress(this.#key(job), { ...this.#progress(job), ...change });
  }

  #report(job: IncrementalAssignment, report: Offer, part: string = job.stage): void {
    const { uid = '' } = job.metadata;
    this.#ports.link.report(recordKey(KIND, job.metadata, part), {
      uid,
      round: job.round,
      stage: job.stage,
      ...report,
    });
  }

  /** The job of a name, if it is on this node. */
  find(namespace: string, name: string): IncrementalAssignment | undefined {
    const found = this.#ports.db
      .objects(KIND)
      .find((o) => o.namespace === namespace && o.name === name);
    return found?.body as IncrementalAssignment | undefined;
  }

  /** Looks at every job once. */
  async poll(): Promise<void> {
    for (const object of this.#ports.db.objects(KIND)) {
      const job = object.body as IncrementalAssignment;
      const key = this.#key(job);
      if (this.#busy.has(key)) continue;
      this.#busy.add(key);
      try {
        await this.#step(job);
      } catch (error) {
        this.#ports.logger.warn('job step failed, will retry', {
          job: job.metadata.name,
          stage: job.stage,
          reason: messageOf(error),
        });
      } finally {
        this.#busy.delete(key);
      }
    }
  }

  async #step(job: IncrementalAssignment): Promise<void> {
    if (job.roles.includes('deploy')) await this.#serve(job);
    if (!job.roles.includes('dataset')) return;
    this.#adopt(job);
    if (job.state !== 'Waiting') return;
    if (job.stage === 'Train') await this.#offerTraining(job);
    else if (job.stage === 'Eval') await this.#offerEvaluation(job);
    else await this.#decideDeployment(job);
  }

  /** `checkPeriodSeconds`: how often a trigger is looked at. */
  #isDue(job: IncrementalAssignment, periodSeconds: number): boolean {
    const key = `${this.#key(job)}/${job.stage}/${job.round}`;
    const now = this.#ports.clock.now();
    const last = this.#lastCheck.get(key);
    if (last !== undefined && now - last < periodSeconds * 1000) return false;
    this.#lastCheck.set(key, now);
    return true;
  }

  #outputPath(job: IncrementalAssignment, ...parts: string[]): string {
    return join(job.outputDir, ...parts);
  }

  #dataFile(job: IncrementalAssignment, stage: 'train' | 'eval'): string {
    const extension = datasetFormat(job.dataset.spec.format).name;
    return this.#outputPath(job, 'data', stage, String(job.round), `data.${extension}`);
  }

  async #offerTraining(job: IncrementalAssignment): Promise<void> {
    const { monitor, clock, hostPath } = this.#ports;
    const { offered } = this.#progress(job);
    // A round keeps the samples it was offered, however many more arrive.
    if (offered?.round === job.round) return this.#report(job, offered.report);
    if (!this.#isDue(job, job.trainTrigger.checkPeriodSeconds ?? 60)) return;
    const total = monitor.check(job.dataset);
    if (total === undefined) return;
    const progress = this.#progress(job);
    const consumed = Math.min(progress.consumed, total);
    const range = { from: consumed, to: total };
    const { train, evaluation } = divide(range, job.trainProb);
    const verdict = decide(
      job.trainTrigger,
      { num_of_samples: train.to - train.from },
      clock.now(),
    );
    if (!verdict.fires) return;
    const evaluations = [...progress.evaluation, evaluation]
      .filter((r) => r.to > r.from)
      .slice(-EVALUATION_ROUNDS);
    const format = datasetFormat(job.dataset.spec.format);
    const { header, parts } = await readRanges(hostPath(job.dataset.spec.url), format, [
      train,
      ...evaluations,
    ]);
    const [trainLines = [], ...evalLines] = parts;
    writeLines(hostPath(this.#dataFile(job, 'train')), [...header, ...trainLines]);
    writeLines(hostPath(this.#dataFile(job, 'eval')), [...header, ...evalLines.flat()]);
    const outputDir = this.#outputPath(job, 'train', String(job.round));
    mkdirSync(hostPath(outputDir), { recursive: true });
    const report: Offer = {
      status: 'ready',
      message: verdict.reason,
      input: {
        models: [progress.deployed ?? job.initialModel],
        dataURL: this.#dataFile(job, 'train'),
        outputDir,
      },
    };
    this.#save(job, { offered: { round: job.round, range, report } });
    this.#report(job, report);
  }

  /** The new model first, then the one it must beat. */
  async #offerEvaluation(job: IncrementalAssignment): Promise<void> {
    const progress = this.#progress(job);
    const next =
      job.previous?.models?.find((m) => m.format === job.deployModel.format) ??
      job.previous?.models?.[0];
    if (!next)
      return this.#report(job, {
        status: 'failed',
        message: 'the training stage reported no model',
      });
    if (progress.offered?.round === job.round) {
      const { range } = progress.offered;
      const { evaluation } = divide(range, job.trainProb);
      const { offered: _done, ...rest } = progress;
      const evaluations = [...progress.evaluation, evaluation]
        .filter((r) => r.to > r.from)
        .slice(-EVALUATION_ROUNDS);
      this.#ports.db.setProgress(this.#key(job), {
        ...rest,
        consumed: range.to,
        evaluation: evaluations,
      });
    }
    const old = job.evalModel ?? progress.deployed ?? this.#served(job);
    this.#report(job, {
      status: 'ready',
      input: { models: [next, old], dataURL: this.#dataFile(job, 'eval') },
    });
    await Promise.resolve();
  }

  /** The deployed model as this node has it: the same path, or the initial model where there is none. */
  #served(job: IncrementalAssignment): StageModel {
    return existsSync(this.#ports.hostPath(job.deployModel.url))
      ? job.deployModel
      : job.initialModel;
  }

  async #decideDeployment(job: IncrementalAssignment): Promise<void> {
    const { clock, models, hostPath } = this.#ports;
    const [next, old] = job.previous?.models ?? [];
    if (!next || !old)
      return this.#report(job, {
        status: 'failed',
        message: 'the evaluation did not report two models, the new one and the old',
      });
    const verdict = decide(
      job.deployTrigger,
      deltaFigures(next.metrics ?? {}, old.metrics ?? {}),
      clock.now(),
    );
    if (!verdict.fires)
      return this.#report(job, {
        status: 'completed',
        message: `kept the deployed model: ${verdict.reason}`,
      });
    const { digest } = await models.publish(hostPath(next.url));
    this.#save(job, { candidate: { digest, model: { format: next.format, url: next.url } } });
    this.#report(job, {
      status: 'ready',
      message: verdict.reason,
      input: { models: [{ ...next, digest }, old] },
    });
  }

  /** The dataset's node: once the model is served, the next round trains from it. */
  #adopt(job: IncrementalAssignment): void {
    const { candidate, ...rest } = this.#progress(job);
    if (candidate && candidate.digest === job.served) {
      this.#ports.db.setProgress(this.#key(job), { ...rest, deployed: candidate.model });
    }
  }

  /** Installs the accepted model where it is served. */
  async #serve(job: IncrementalAssignment): Promise<void> {
    const { models, hostPath, clock } = this.#ports;
    const { accepted } = job;
    const { installed } = this.#progress(job);
    if (accepted === undefined || (installed?.digest === accepted && installed.round === job.round))
      return;
    const path = await models.fetch(accepted);
    placeFile(path, hostPath(job.deployModel.url));
    const updated = new Date(clock.now()).toISOString();
    if (job.hotUpdate) {
      installHotUpdate(
        hostPath(hotUpdateFolder({ metadata: job.metadata })),
        { path, digest: accepted, format: job.deployModel.format },
        updated,
      );
    } else {
      this.#report(job, { status: 'completed' }, 'Serving');
    }
    this.#save(job, { installed: { digest: accepted, round: job.round } });
  }

  /** Takes what a worker of this job reports. */
  take(job: IncrementalAssignment, report: WorkerReport): void {
    const failed = report.status === 'failed';
    if (report.kind === 'deploy') {
      const { installed } = this.#progress(job);
      // A worker that starts loads what is there already: only an installed model of this round counts.
      if (installed?.round !== job.round || job.stage !== 'Deploy') return;
      const { reason: given } = report.ownerInfo;
      const reason = typeof given === 'string' ? given : 'the worker refused the model';
      this.#report(
        job,
        failed ? { status: 'failed', message: reason } : { status: 'completed' },
        'Serving',
      );
      return;
    }
    const stage = report.kind === 'train' ? 'Train' : report.kind === 'eval' ? 'Eval' : undefined;
    if (stage !== job.stage || report.status === 'running') return;
    if (failed)
      this.#report(job, {
        status: 'failed',
        message: `the ${report.kind} worker reported failure`,
      });
    else if (report.status === 'completed')
      this.#report(job, { status: 'completed', output: { models: report.results } });
  }
}
