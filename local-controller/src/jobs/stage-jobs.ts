import { existsSync, mkdirSync } from 'node:fs';
import { join, normalize } from 'node:path/posix';
import { type FaultReport, recordKey, type StageAssignment, type StageModel } from '@shoal/api';
import { isJsonObject, isShoalError, messageOf } from '@shoal/core';
import { datasetFormat } from '../dataset/formats.ts';
import { datasetPath } from '../dataset/remote-datasets.ts';
import { isRemote } from '../dataset/remote-url.ts';
import { divide, readRanges, type SampleRange, writeLines } from '../dataset/split.ts';
import { placeFile } from '../model/model-store.ts';
import { LabelledInbox } from '../samples/inbox.ts';
import { decide, deltaFigures, guarded } from '../trigger/trigger.ts';
import type { JobPorts, StageJobKind, WorkerReport } from './ports.ts';
import { JobProgress, type Offer } from './progress.ts';
import { type HeldModel, Serving } from './serving.ts';

/** Rounds whose evaluation samples are kept. */
const EVALUATION_ROUNDS = 5;
/** Served models whose files this node remembers. */
const KEPT_MODELS = 10;

/** A node's part in the jobs of one kind: triggers, samples, evaluation, hot update. */
export class StageJobs {
  readonly #kind: StageJobKind;
  readonly #ports: JobPorts;
  readonly #progress: JobProgress;
  readonly #serving: Serving;
  readonly #inbox: LabelledInbox;
  readonly #lastCheck = new Map<string, number>();
  readonly #busy = new Set<string>();

  constructor(kind: StageJobKind, ports: JobPorts) {
    this.#kind = kind;
    this.#ports = ports;
    this.#progress = new JobProgress(ports.db);
    this.#serving = new Serving(kind, ports);
    this.#inbox = new LabelledInbox(ports);
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

  #jobs(): StageAssignment[] {
    return this.#ports.db.objects(this.#kind).map((o) => o.body as StageAssignment);
  }

  /** Models that wait for their release at this node. */
  held(): HeldModel[] {
    return this.#jobs().flatMap((job) => this.#serving.held(job) ?? []);
  }

  /** Lets models that wait go on: of one job, or of all. @returns Those that were released. */
  release(of?: { readonly namespace: string; readonly name: string }): HeldModel[] {
    return this.#jobs().flatMap((job) => {
      const { namespace, name } = job.metadata;
      const held = this.#serving.held(job);
      if (!held || (of && (of.namespace !== namespace || of.name !== name))) return [];
      this.#serving.release(job, held);
      return [held];
    });
  }

  /** Whether this node takes no new models until they are released here. */
  get isHolding(): boolean {
    return this.#serving.isHolding;
  }

  set isHolding(holding: boolean) {
    this.#serving.isHolding = holding;
  }

  /** Looks at every job once; a step that takes long does not hold up the others. */
  poll(): void {
    for (const object of this.#ports.db.objects(this.#kind))
      void this.#guarded(object.body as StageAssignment);
  }

  async #guarded(job: StageAssignment): Promise<void> {
    const key = this.#progress.key(job);
    if (this.#busy.has(key)) return;
    this.#busy.add(key);
    try {
      await this.#parts(job);
    } finally {
      this.#busy.delete(key);
    }
  }

  /** The parts of the job, each by itself: what one cannot do does not keep the others from theirs. */
  async #parts(job: StageAssignment): Promise<void> {
    const faults: string[] = [];
    const attempt = async (part: () => Promise<void>): Promise<void> => {
      try {
        await part();
      } catch (error) {
        const reason = messageOf(error);
        const fields = { job: job.metadata.name, stage: job.stage, reason };
        this.#ports.logger.warn('job step failed, will retry', fields);
        // Without the cloud there is nobody to tell, and nothing wrong.
        if (!isShoalError(error) || error.code !== 'unavailable') faults.push(reason);
      }
    };
    if (job.roles.includes('deploy')) await attempt(async () => await this.#serving.serve(job));
    if (job.roles.includes('dataset')) {
      await attempt(async () => await this.#inbox.take(job));
      await attempt(async () => await this.#adopt(job));
      await attempt(async () => await this.#step(job));
    }
    this.#tellFault(job, faults.join('; '));
  }

  #tellFault(job: StageAssignment, message: string): void {
    const { db, link } = this.#ports;
    const { uid = '' } = job.metadata;
    if ((db.progress<string>(`fault/${uid}`) ?? '') === message) return;
    const report: FaultReport = { uid, message };
    link.report(recordKey(this.#kind, job.metadata, 'Fault'), report);
    db.setProgress(`fault/${uid}`, message);
  }

  async #step(job: StageAssignment): Promise<void> {
    if (job.state !== 'Waiting') return;
    if (job.stage === 'Train') await this.#offerTraining(job);
    else if (job.stage === 'Eval') this.#offerEvaluation(job);
    else await this.#decideDeployment(job);
  }

  /** `checkPeriodSeconds`: how often a trigger is looked at. */
  #isDue(job: StageAssignment, periodSeconds: number): boolean {
    const key = `${this.#progress.key(job)}/${job.stage}/${job.round}`;
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
    const { offered } = this.#progress.of(job);
    // A round keeps the samples it was offered, however many more arrive.
    if (offered?.round === job.round) return this.#report(job, offered.report);
    if (!this.#isDue(job, job.trainTrigger.checkPeriodSeconds ?? 60)) return;
    const total = monitor.check(job.dataset);
    if (total === undefined) return;
    const progress = this.#progress.of(job);
    const consumed = Math.min(progress.consumed, total);
    const range = { from: consumed, to: total };
    const { train, evaluation } = divide(range, job.trainProb);
    const alarms = (job.driftAlarms ?? []).filter((a) => a > (progress.alarmsUntil ?? ''));
    const figures = { num_of_samples: train.to - train.from, drift: alarms.length };
    const verdict = decide(job.trainTrigger, figures, clock.now());
    if (!verdict.fires || train.to === train.from) return;
    const trains = [...progress.slices.map((r) => divide(r, job.trainProb).train), train];
    const evaluations = withNewest(progress.evaluation, evaluation);
    const format = datasetFormat(job.dataset.spec.format);
    const source = hostPath(datasetPath(job.dataset));
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
    const newest = alarms.at(-1);
    const next = { round: job.round, range, report };
    this.#progress.save(job, {
      offered: newest === undefined ? next : { ...next, alarmsUntil: newest },
    });
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
    const { evaluating, deployed } = this.#progress.of(job);
    const old = job.evalModel ?? deployed ?? this.#served(job);
    const fresh = job.evaluatesPair ? [next, old] : [next];
    const pair = evaluating?.round === job.round ? evaluating.models : fresh;
    this.#progress.save(job, { evaluating: { round: job.round, models: pair } });
    this.#report(job, {
      status: 'ready',
      input: { models: pair, dataURL: this.#dataFile(job, 'eval') },
    });
  }

  /** The round was trained: its samples count as used, and train again until a model is deployed. */
  #consume(job: StageAssignment): void {
    const { offered, ...rest } = this.#progress.of(job);
    if (offered?.round !== job.round) return;
    const { range, alarmsUntil } = offered;
    const evaluation = withNewest(rest.evaluation, divide(range, job.trainProb).evaluation);
    const slices = [...rest.slices, range];
    this.#progress.replace(job, {
      ...rest,
      consumed: range.to,
      slices,
      evaluation,
      ...(alarmsUntil === undefined ? {} : { alarmsUntil }),
    });
  }

  /** The deployed model as this node has it: the same path, or the initial model where there is none. */
  #served(job: StageAssignment): StageModel {
    const { url } = job.deployModel;
    return !isRemote(url) && existsSync(this.#ports.hostPath(url))
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
    const verdict =
      job.pinned === undefined
        ? guarded(decide(job.deployTrigger, figures, clock.now()), job.guards ?? [], figures)
        : { fires: false, reason: `the served model is pinned to ${job.pinned.slice(0, 19)}` };
    if (!verdict.fires)
      return this.#report(job, {
        status: 'completed',
        message: `kept the deployed model: ${verdict.reason}`,
      });
    const { digest } = await models.publish(hostPath(next.url));
    this.#progress.save(job, {
      candidate: { digest, model: { format: next.format, url: next.url } },
    });
    this.#report(job, {
      status: 'ready',
      message: verdict.reason,
      input: { models: [{ ...next, digest }, ...(old ? [old] : [])] },
    });
  }

  /** The dataset's node: once a model is served, the next round trains from it. */
  async #adopt(job: StageAssignment): Promise<void> {
    const { candidate, ...rest } = this.#progress.of(job);
    const { served } = job;
    if (served === undefined || served === rest.deployedDigest) return;
    const isNew = candidate?.digest === served;
    const found = isNew
      ? candidate.model
      : (rest.history?.find((h) => h.digest === served)?.model ??
        (await this.#servedModel(job, served)));
    const history = [
      ...(rest.history ?? []).filter((h) => h.digest !== served),
      { digest: served, model: found },
    ].slice(-KEPT_MODELS);
    // What was learned is in a new model that is served now; not so in one that came back.
    const slices = isNew ? [] : rest.slices;
    const adopted = { ...rest, slices, history, deployed: found, deployedDigest: served };
    this.#progress.replace(job, candidate && !isNew ? { ...adopted, candidate } : adopted);
  }

  /** A model this node did not train, or knows no more, as a file of the job. */
  async #servedModel(job: StageAssignment, served: string): Promise<StageModel> {
    const { models, hostPath } = this.#ports;
    const { format } = job.deployModel;
    const url = this.#outputPath(job, 'served', `model-${served.slice(7, 19)}.${format}`);
    placeFile(await models.fetch(served), hostPath(url));
    return { format, url };
  }

  /** Takes what a worker of this job reports. */
  take(job: StageAssignment, report: WorkerReport): void {
    if (report.kind === 'inference' && this.#kind === 'IncrementalLearningJob')
      return this.#ports.hardExamples.observe(job, report.ownerInfo);
    if (report.kind === 'deploy') return this.#serving.take(job, report);
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
    const { evaluating } = this.#progress.of(job);
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
