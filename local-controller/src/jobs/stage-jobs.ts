import { existsSync, mkdirSync } from 'node:fs';
import { join, normalize } from 'node:path/posix';
import {
  hotUpdateFolder,
  recordKey,
  type StageAssignment,
  type StageModel,
  type StageReport,
} from '@shoal/api';
import { type Clock, isJsonObject, type Logger, messageOf } from '@shoal/core';
import { datasetFormat } from '../dataset/formats.ts';
import type { DatasetMonitor } from '../dataset/monitor.ts';
import { divide, readRanges, type SampleRange, writeLines } from '../dataset/split.ts';
import type { Link } from '../link/link.ts';
import { installHotUpdate, withdrawHotUpdate } from '../model/hot-update.ts';
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
  /** Samples that were part of a trained round; newer ones count for the next trigger. */
  readonly consumed: number;
  /** Slices trained since the last deployment: a round that is not deployed loses no sample. */
  readonly slices: readonly SampleRange[];
  /** What is under evaluation: the new model, and behind it the old one where two are compared. */
  readonly evaluating?: {
    readonly round: number;
    readonly models: readonly StageModel[];
  };
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
const EMPTY: Progress = { consumed: 0, slices: [], evaluation: [] };

/** What a worker said, as the worker API hands it on. */
export interface WorkerReport {
  readonly kind: string;
  readonly status: string | undefined;
  readonly results: readonly StageModel[];
  readonly ownerInfo: Readonly<Record<string, unknown>>;
}

/** Kinds of jobs with stages. */
export type StageJobKind = 'IncrementalLearningJob' | 'LifelongLearningJob';

/** A node's part in the jobs of one kind: triggers, samples, evaluation, hot update. */
export class StageJobs {
  readonly #kind: StageJobKind;
  readonly #ports: JobPorts;
  readonly #lastCheck = new Map<string, number>();
  readonly #busy = new Set<string>();

  constructor(kind: StageJobKind, ports: JobPorts) {
    this.#kind = kind;
    this.#ports = ports;
  }

  #key(job: StageAssignment): string {
    return `il/${job.metadata.uid}`;
  }

  #progress(job: StageAssignment): Progress {
    return this.#ports.db.progress<Progress>(this.#key(job)) ?? EMPTY;
  }

  #save(job: StageAssignment, change: Partial<Progress>): void {
    this.#ports.db.setProgress(this.#key(job), { ...this.#progress(job), ...change });
  }

  #report(job: StageAssignment, report: Offer, part: string = job.stage): void {
    const { uid = '' } = job.metadata;
    this.#ports.link.report(recordKey(this.#kind, job.metadata, part), {
      uid,
      round: job.round,
      stage: job.stage,
      ...report,
    });
  }

  /** The job of a name, if it is on this node. */
  find(namespace: string, name: string): StageAssignment | undefined {
    const found = this.#ports.db
      .objects(this.#kind)
      .find((o) => o.namespace === namespace && o.name === name);
    return found?.body as StageAssignment | undefined;
  }

  /** Looks at every job once; a step that takes long does not hold up the others. */
  poll(): void {
    for (const object of this.#ports.db.objects(this.#kind))
      void this.#guarded(object.body as StageAssignment);
  }

  async #guarded(job: StageAssignment): Promise<void> {
    const key = this.#key(job);
    if (this.#busy.has(key)) return;
    this.#busy.add(key);
    try {
      await this.#step(job);
    } catch (error) {
      const fields = { job: job.metadata.name, stage: job.stage, reason: messageOf(error) };
      this.#ports.logger.warn('job step failed, will retry', fields);
    } finally {
      this.#busy.delete(key);
    }
  }

  async #step(job: StageAssignment): Promise<void> {
    if (job.roles.includes('deploy')) await this.#serve(job);
    if (!job.roles.includes('dataset')) return;
    this.#adopt(job);
    if (job.state !== 'Waiting') return;
    if (job.stage === 'Train') await this.#offerTraining(job);
    else if (job.stage === 'Eval') this.#offerEvaluation(job);
    else await this.#decideDeployment(job);
  }

  /** `checkPeriodSeconds`: how often a trigger is looked at. */
  #isDue(job: StageAssignment, periodSeconds: number): boolean {
    const key = `${this.#key(job)}/${job.stage}/${job.round}`;
    const now = this.#ports.clock.now();
    const last = this.#lastCheck.get(key);
    if (last !== undefined && now - last < periodSeconds * 1000) return false;
    this.#lastCheck.set(key, now);
    return true;
  }

  #outputPath(job: StageAssignment, ...parts: string[]): string {
    return join(job.outputDir, ...parts);
  }

  #dataFile(job: StageAssignment, stage: 'train' | 'eval'): string {
    const extension = datasetFormat(job.dataset.spec.format).name;
    return this.#outputPath(job, 'data', stage, String(job.round), `data.${extension}`);
  }

  async #offerTraining(job: StageAssignment): Promise<void> {
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
    const trains = [...progress.slices.map((r) => divide(r, job.trainProb).train), train];
    const evaluations = withNewest(progress.evaluation, evaluation);
    const format = datasetFormat(job.dataset.spec.format);
    const source = hostPath(job.dataset.spec.url);
    const { header, parts } = await readRanges(source, format, [...trains, ...evaluations]);
    const trainLines = parts.slice(0, trains.length).flat();
    const evalLines = parts.slice(trains.length).flat();
    writeLines(hostPath(this.#dataFile(job, 'train')), [...header, ...trainLines]);
    writeLines(hostPath(this.#dataFile(job, 'eval')), [...header, ...evalLines]);
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
  #offerEvaluation(job: StageAssignment): void {
    const { models = [] } = job.previous ?? {};
    const next = models.find((m) => m.format === job.deployModel.format) ?? models[0];
    if (!next)
      return this.#report(job, {
        status: 'failed',
        message: 'the training stage reported no model',
      });
    this.#consume(job);
    const { evaluating, deployed } = this.#progress(job);
    const old = job.evalModel ?? deployed ?? this.#served(job);
    const fresh = job.evaluatesPair ? [next, old] : [next];
    const pair = evaluating?.round === job.round ? evaluating.models : fresh;
    this.#save(job, { evaluating: { round: job.round, models: pair } });
    this.#report(job, {
      status: 'ready',
      input: { models: pair, dataURL: this.#dataFile(job, 'eval') },
    });
  }

  /** The round was trained: its samples count as used, and train again until a model is deployed. */
  #consume(job: StageAssignment): void {
    const { offered, ...rest } = this.#progress(job);
    if (offered?.round !== job.round) return;
    const { range } = offered;
    const evaluation = withNewest(rest.evaluation, divide(range, job.trainProb).evaluation);
    const slices = [...rest.slices, range];
    this.#ports.db.setProgress(this.#key(job), { ...rest, consumed: range.to, slices, evaluation });
  }

  /** The deployed model as this node has it: the same path, or the initial model where there is none. */
  #served(job: StageAssignment): StageModel {
    return existsSync(this.#ports.hostPath(job.deployModel.url))
      ? job.deployModel
      : job.initialModel;
  }

  async #decideDeployment(job: StageAssignment): Promise<void> {
    const { clock, models, hostPath } = this.#ports;
    const [next, old] = job.previous?.models ?? [];
    if (!next || (job.evaluatesPair && !old))
      return this.#report(job, {
        status: 'failed',
        message: 'the evaluation did not report two models, the new one and the old',
      });
    const figures = deltaFigures(next.metrics ?? {}, old?.metrics ?? {});
    const verdict = decide(job.deployTrigger, figures, clock.now());
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
      input: { models: [{ ...next, digest }, ...(old ? [old] : [])] },
    });
  }

  /** The dataset's node: once the model is served, the next round trains from it. */
  #adopt(job: StageAssignment): void {
    const { candidate, ...rest } = this.#progress(job);
    if (candidate && candidate.digest === job.served) {
      // What was learned is in the model that is served now.
      this.#ports.db.setProgress(this.#key(job), {
        ...rest,
        slices: [],
        deployed: candidate.model,
      });
    }
  }

  /** Installs the accepted model where it is served. */
  async #serve(job: StageAssignment): Promise<void> {
    const { models, hostPath, clock, db } = this.#ports;
    const folder = hostPath(hotUpdateFolder(this.#kind, job.metadata));
    // What an earlier job of this name left must not be taken for a model of this one.
    if (db.progress(this.#key(job)) === undefined) withdrawHotUpdate(folder);
    const { installed } = this.#progress(job);
    this.#save(job, {});
    const { accepted } = job;
    if (accepted === undefined || (installed?.digest === accepted && installed.round === job.round))
      return;
    const path = await models.fetch(accepted);
    const model = { path, digest: accepted, format: job.deployModel.format };
    this.#save(job, { installed: { digest: accepted, round: job.round } });
    if (job.hotUpdate) return installHotUpdate(folder, model, new Date(clock.now()).toISOString());
    placeFile(path, hostPath(job.deployModel.url));
    this.#report(job, { status: 'completed' }, 'Serving');
  }

  /** Takes what a worker of this job reports. */
  take(job: StageAssignment, report: WorkerReport): void {
    if (report.kind === 'deploy') return this.#takeDeployment(job, report);
    const stage = report.kind === 'train' ? 'Train' : report.kind === 'eval' ? 'Eval' : undefined;
    if (stage !== job.stage) return;
    if (report.status === 'failed') {
      this.#report(job, {
        status: 'failed',
        message: `the ${report.kind} worker reported failure`,
      });
    } else if (report.status === 'completed') {
      if (stage === 'Train') this.#takeTraining(job, report);
      else this.#takeEvaluation(job, report);
    }
  }

  /** The worker took the model, or refused it: then the file it would start with stays the old one. */
  #takeDeployment(job: StageAssignment, report: WorkerReport): void {
    const { models, hostPath } = this.#ports;
    const { installed } = this.#progress(job);
    // A worker that starts loads what is there already: only an installed model of this round counts.
    if (installed?.round !== job.round || job.stage !== 'Deploy') return;
    if (report.status === 'failed') {
      withdrawHotUpdate(hostPath(hotUpdateFolder(this.#kind, job.metadata)));
      const { reason } = report.ownerInfo;
      const message = typeof reason === 'string' ? reason : 'the worker refused the model';
      return this.#report(job, { status: 'failed', message }, 'Serving');
    }
    placeFile(models.pathOf(installed.digest), hostPath(job.deployModel.url));
    this.#report(job, { status: 'completed' }, 'Serving');
  }

  /** A worker may only name models in the folder it was given: the worker API asks nobody who he is. */
  #takeTraining(job: StageAssignment, report: WorkerReport): void {
    if (this.#strays(job, report.results)) return;
    this.#report(job, { status: 'completed', output: { models: report.results } });
  }

  /** Whether a report names a file outside the folder of its round. */
  #strays(job: StageAssignment, results: readonly StageModel[]): boolean {
    const folder = `${this.#outputPath(job, 'train', String(job.round))}/`;
    const stray = results.find((m) => !normalize(m.url).startsWith(folder));
    if (!stray) return false;
    const fields = { job: job.metadata.name, url: stray.url, folder };
    this.#ports.logger.warn(
      'a model outside the folder of this round was reported, ignored',
      fields,
    );
    return true;
  }

  /** Only the figures are the worker's to tell; which models they are about is known here. */
  #takeEvaluation(job: StageAssignment, report: WorkerReport): void {
    const { knowledgeBase } = report.ownerInfo;
    const known = isJsonObject(knowledgeBase) ? { knowledgeBase } : {};
    // An evaluation that judges by itself makes an index of its own, in the folder of its round.
    if (!job.evaluatesPair) {
      if (this.#strays(job, report.results)) return;
      return this.#report(job, {
        status: 'completed',
        output: { models: report.results, ...known },
      });
    }
    const { evaluating } = this.#progress(job);
    const pair =
      evaluating?.round === job.round
        ? evaluating.models
        : job.roles.includes('dataset')
          ? undefined
          : report.results;
    const [next] = pair ?? [];
    const about = report.results[0]?.url ?? '';
    if (
      !pair ||
      (next && about.startsWith('/') && !about.startsWith('/downloads/') && about !== next.url)
    )
      return;
    if (report.results.length !== pair.length) {
      const message = `the evaluation reported ${report.results.length} results for ${pair.length} models`;
      return this.#report(job, { status: 'failed', message });
    }
    const models = pair.map((m, i) => ({ ...m, metrics: report.results[i]?.metrics ?? {} }));
    this.#report(job, { status: 'completed', output: { models, ...known } });
  }
}

/** The newest evaluation ranges, empty ones left out. */
function withNewest(known: readonly SampleRange[], next: SampleRange): SampleRange[] {
  return [...known, next].filter((r) => r.to > r.from).slice(-EVALUATION_ROUNDS);
}
