import { existsSync } from 'node:fs';
import {
  hotUpdateFolder,
  type ModelReport,
  type RolloutReport,
  recordKey,
  type StageAssignment,
} from '@shoal/api';
import { ShoalError } from '@shoal/core';
import { isRemote } from '../dataset/remote-url.ts';
import { installHotUpdate, withdrawHotUpdate } from '../model/hot-update.ts';
import { placeFile } from '../model/model-store.ts';
import type { JobPorts, StageJobKind, WorkerReport } from './ports.ts';
import { type InstalledModel, JobProgress, type Offer } from './progress.ts';

type Wanted = Pick<InstalledModel, 'digest' | 'as'> & {
  /** Back to what was served before: nobody has to let that go on. */
  readonly isReturn?: boolean;
};

/** Key under which a node remembers that it takes no new models for now. */
const HOLD_KEY = 'edge-hold';

/** A model that waits for its release at this node. */
export interface HeldModel {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly round: number;
  readonly digest: string;
}

/** The models this node serves: installs what was accepted or pinned, and tells what became of it. */
export class Serving {
  readonly #kind: StageJobKind;
  readonly #ports: JobPorts;
  readonly #progress: JobProgress;

  constructor(kind: StageJobKind, ports: JobPorts) {
    this.#kind = kind;
    this.#ports = ports;
    this.#progress = new JobProgress(ports.db);
  }

  #report(job: StageAssignment, report: Offer): void {
    const { uid = '' } = job.metadata;
    const { round, stage } = job;
    this.#ports.link.report(recordKey(this.#kind, job.metadata, 'Serving'), {
      uid,
      round,
      stage,
      ...report,
    });
  }

  #tell(job: StageAssignment, part: 'Pinned' | 'Initial', digest: string): void {
    const { uid = '', generation } = job.metadata;
    const report: ModelReport = { uid, digest, ...(generation ? { generation } : {}) };
    this.#ports.link.report(recordKey(this.#kind, job.metadata, part), report);
  }

  /** Puts a model where a worker that starts finds it; one at a remote address stays as it is. */
  #place(job: StageAssignment, path: string): void {
    const { url } = job.deployModel;
    if (!isRemote(url)) placeFile(path, this.#ports.hostPath(url));
  }

  #folder(job: StageAssignment): string {
    return this.#ports.hostPath(hotUpdateFolder(this.#kind, job.metadata));
  }

  /** What should be served here now; undefined: what is served already. */
  #wanted(job: StageAssignment, isKnown: boolean): Wanted | undefined {
    const { accepted, pinned, served, withdrawn } = job;
    if (pinned !== undefined) return { digest: pinned, as: 'pinned' };
    if (accepted !== undefined) return { digest: accepted, as: 'accepted' };
    if (served !== undefined) return this.#served(job, served, isKnown);
    // The first model of all was rolled back: the one the job began with comes back.
    const { installed, initial } = this.#progress.of(job);
    const isBack = withdrawn !== undefined && installed?.digest === withdrawn;
    return isBack && initial ? { digest: initial, as: 'restored', isReturn: true } : undefined;
  }

  /** The model the job serves, where this node serves another: it was away, has forgotten, or goes back. */
  #served(job: StageAssignment, served: string, isKnown: boolean): Wanted | undefined {
    const { installed, confirmed } = this.#progress.of(job);
    // A model that was refused here is not served, though it was installed.
    const isRefused = installed?.refused !== undefined;
    const has = isRefused ? confirmed?.digest : installed?.digest;
    if (isKnown && (has === served || (isRefused && installed.digest === served))) return undefined;
    const { withdrawn } = job;
    const isReturn = !isKnown || (withdrawn !== undefined && installed?.digest === withdrawn);
    return { digest: served, as: 'restored', isReturn };
  }

  #rollout(job: StageAssignment, digest: string, state: RolloutReport['state']): void {
    const report: RolloutReport = { uid: job.metadata.uid ?? '', digest, state };
    this.#ports.link.report(recordKey(this.#kind, job.metadata, 'Rollout'), report);
  }

  /** What waited here, or was fetched, goes on: it is late from now on if it does not serve. */
  #tellReleased(job: StageAssignment, { as, digest }: Wanted): void {
    const key = recordKey(this.#kind, job.metadata, 'Rollout');
    if (as === 'accepted' && this.#ports.db.outbox.said(key))
      this.#rollout(job, digest, 'released');
  }

  /** Whether a model waits here for its release; one that is installed already does not. */
  #isHeld(job: StageAssignment, wanted: Wanted): boolean {
    if (wanted.as === 'pinned' || wanted.isReturn) return false;
    if (job.hold !== true && !this.isHolding) return false;
    const { released, installed } = this.#progress.of(job);
    return released !== wanted.digest && installed?.digest !== wanted.digest;
  }

  /** Whether this node takes no new models until they are released here. */
  get isHolding(): boolean {
    return this.#ports.db.progress<boolean>(HOLD_KEY) === true;
  }

  set isHolding(holding: boolean) {
    this.#ports.db.setProgress(HOLD_KEY, holding);
  }

  /** The model of a job that waits here, if one does. */
  held(job: StageAssignment): HeldModel | undefined {
    if (!job.roles.includes('deploy')) return undefined;
    const wanted = this.#wanted(job, this.#progress.isKnown(job));
    if (!wanted || !this.#isHeld(job, wanted)) return undefined;
    const { namespace = '', name } = job.metadata;
    return { kind: this.#kind, namespace, name, round: job.round, digest: wanted.digest };
  }

  /** Lets the model that waits here go on. */
  release(job: StageAssignment, { digest }: HeldModel): void {
    this.#progress.save(job, { released: digest });
  }

  /** Fetches what is on its way, and says when it is here. */
  async #fetch(job: StageAssignment, digest: string, state: RolloutReport['state']): Promise<void> {
    await this.#ports.models.fetch(digest);
    this.#rollout(job, digest, state);
  }

  /**
   * Installs the accepted or the pinned model where it is served, and says so as often as it is asked.
   *
   * @throws ShoalError `failed_precondition` while the worker refuses the pinned model.
   */
  async serve(job: StageAssignment): Promise<void> {
    const isKnown = this.#progress.isKnown(job);
    // What an earlier job of this name left must not be taken for a model of this one.
    if (!isKnown) withdrawHotUpdate(this.#folder(job));
    const wanted = this.#wanted(job, isKnown);
    this.#progress.save(job, {});
    const { accepted, pinned } = job;
    if (pinned !== undefined && accepted !== undefined && accepted !== pinned)
      this.#report(job, { status: 'failed', message: 'another model is pinned' });
    if (wanted && this.#isHeld(job, wanted)) await this.#fetch(job, wanted.digest, 'held');
    else if (wanted) {
      this.#tellReleased(job, wanted);
      await this.#serveModel(job, wanted);
    }
    // Last: what is to be served now does not wait for what may be served later.
    if (job.prefetch !== undefined) await this.#fetch(job, job.prefetch, 'pulled');
  }

  async #serveModel(job: StageAssignment, wanted: Wanted): Promise<void> {
    const { installed } = this.#progress.of(job);
    const isSame =
      installed?.digest === wanted.digest &&
      installed.as === wanted.as &&
      (wanted.as !== 'accepted' || installed.round === job.round);
    if (!isSame || installed.state === 'pending') return await this.#install(job, wanted);
    if (installed.refused !== undefined && wanted.as === 'pinned')
      throw new ShoalError(
        'failed_precondition',
        `the pinned model ${wanted.digest.slice(0, 19)} was refused: ${installed.refused}`,
      );
    if (installed.state === 'done' && installed.refused === undefined)
      this.#confirm(job, installed);
  }

  /** A model is installed when all of it is: a node that is killed in between begins anew. */
  async #install(job: StageAssignment, wanted: Wanted): Promise<void> {
    const { models, clock } = this.#ports;
    await this.#keepInitial(job);
    const path = await models.fetch(wanted.digest);
    const updated = new Date(clock.now()).toISOString();
    const installed: InstalledModel = { ...wanted, round: job.round, updated, state: 'pending' };
    this.#progress.save(job, { installed });
    if (job.hotUpdate) {
      const { format } = job.deployModel;
      installHotUpdate(this.#folder(job), { path, digest: wanted.digest, format }, updated);
      // The worker's answer may have come already: it is newer than this.
      const { installed: now } = this.#progress.of(job);
      if (now?.updated === updated && now.state === 'pending')
        this.#progress.save(job, { installed: { ...installed, state: 'waiting' } });
      return;
    }
    this.#place(job, path);
    this.#done(job, installed);
  }

  #done(job: StageAssignment, installed: InstalledModel): void {
    const { digest, updated = '' } = installed;
    const done: InstalledModel = { ...installed, state: 'done' };
    this.#progress.save(job, { installed: done, confirmed: { digest, updated } });
    this.#confirm(job, done);
  }

  /** Says that a model serves; what was said before is not sent again. */
  #confirm(job: StageAssignment, { digest, as }: InstalledModel): void {
    if (as === 'pinned') this.#tell(job, 'Pinned', digest);
    else if (as === 'accepted') this.#report(job, { status: 'completed' });
  }

  /** What was served from the start goes to the cloud before it is overwritten: one can go back to it. */
  async #keepInitial(job: StageAssignment): Promise<void> {
    const { models, hostPath } = this.#ports;
    if (this.#progress.of(job).initial !== undefined) return;
    const path = hostPath(job.deployModel.url);
    const isHere = !isRemote(job.deployModel.url) && existsSync(path);
    const blob = /^blob:(sha256:[0-9a-f]{64})$/.exec(job.deployModel.url)?.[1] ?? '';
    const digest = isHere ? (await models.publish(path)).digest : blob;
    // It stays here as well, under its digest: the way back needs no cloud.
    if (isHere && !existsSync(models.pathOf(digest))) placeFile(path, models.pathOf(digest));
    this.#progress.save(job, { initial: digest });
    if (isHere) this.#tell(job, 'Initial', digest);
  }

  /** Whether a worker's report is about what is installed here now. */
  #concerns(job: StageAssignment, installed: InstalledModel, report: WorkerReport): boolean {
    const stamp = report.ownerInfo['modelUpdateTime'];
    if (typeof stamp === 'string' && installed.updated !== undefined && stamp !== installed.updated)
      return false;
    if (installed.as === 'pinned') return installed.digest === job.pinned;
    // A worker that starts loads what is there already: only an installed model of this round counts.
    return installed.as === 'restored' || (installed.round === job.round && job.stage === 'Deploy');
  }

  /** The worker took the model, or refused it: then the one before it is what a worker starts with. */
  take(job: StageAssignment, report: WorkerReport): void {
    const { installed } = this.#progress.of(job);
    if (!installed || !this.#concerns(job, installed, report)) return;
    if (report.status !== 'failed') {
      this.#place(job, this.#ports.models.pathOf(installed.digest));
      return this.#done(job, installed);
    }
    const { reason } = report.ownerInfo;
    const refused = typeof reason === 'string' ? reason : 'the worker refused the model';
    this.#pointBack(job);
    this.#progress.save(job, { installed: { ...installed, state: 'done', refused } });
    if (installed.as === 'accepted') this.#report(job, { status: 'failed', message: refused });
  }

  /** The pointer goes back to the model that was confirmed last. */
  #pointBack(job: StageAssignment): void {
    const { confirmed } = this.#progress.of(job);
    const path = confirmed && this.#ports.models.pathOf(confirmed.digest);
    if (!confirmed || !path || !existsSync(path)) return withdrawHotUpdate(this.#folder(job));
    const { format } = job.deployModel;
    const model = { path, digest: confirmed.digest, format };
    installHotUpdate(this.#folder(job), model, confirmed.updated);
  }
}
