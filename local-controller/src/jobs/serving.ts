import { existsSync } from 'node:fs';
import { hotUpdateFolder, type ModelReport, recordKey, type StageAssignment } from '@shoal/api';
import { isRemote } from '../dataset/remote-url.ts';
import { installHotUpdate, withdrawHotUpdate } from '../model/hot-update.ts';
import { placeFile } from '../model/model-store.ts';
import type { JobPorts, StageJobKind, WorkerReport } from './ports.ts';
import { JobProgress, type Offer } from './progress.ts';

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
    const report: ModelReport = { uid: job.metadata.uid ?? '', digest };
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

  /** Installs the accepted or the pinned model where it is served. */
  async serve(job: StageAssignment): Promise<void> {
    // What an earlier job of this name left must not be taken for a model of this one.
    if (!this.#progress.isKnown(job)) withdrawHotUpdate(this.#folder(job));
    this.#progress.save(job, {});
    const { accepted, pinned } = job;
    const { installed } = this.#progress.of(job);
    if (pinned !== undefined) {
      if (accepted !== undefined && accepted !== pinned)
        this.#report(job, { status: 'failed', message: 'another model is pinned' });
      if (installed?.digest !== pinned || installed.pinned !== true)
        await this.#install(job, pinned, true);
    } else if (
      accepted !== undefined &&
      (installed?.digest !== accepted || installed.round !== job.round || installed.pinned === true)
    )
      await this.#install(job, accepted, false);
  }

  async #install(job: StageAssignment, digest: string, pinned: boolean): Promise<void> {
    const { models, clock } = this.#ports;
    await this.#keepInitial(job);
    const path = await models.fetch(digest);
    const installed = { digest, round: job.round, ...(pinned ? { pinned } : {}) };
    if (job.hotUpdate) {
      const model = { path, digest, format: job.deployModel.format };
      // Remembered first: the worker's answer may come at once.
      this.#progress.save(job, { installed });
      return installHotUpdate(this.#folder(job), model, new Date(clock.now()).toISOString());
    }
    this.#place(job, path);
    this.#progress.save(job, { installed });
    if (pinned) this.#tell(job, 'Pinned', digest);
    else this.#report(job, { status: 'completed' });
  }

  /** What was served from the start goes to the cloud before it is overwritten: one can go back to it. */
  async #keepInitial(job: StageAssignment): Promise<void> {
    const { models, hostPath } = this.#ports;
    if (this.#progress.of(job).initial !== undefined) return;
    const path = hostPath(job.deployModel.url);
    const isHere = !isRemote(job.deployModel.url) && existsSync(path);
    const digest = isHere ? (await models.publish(path)).digest : '';
    this.#progress.save(job, { initial: digest });
    if (digest !== '') this.#tell(job, 'Initial', digest);
  }

  /** The worker took the model, or refused it: then the file it would start with stays the old one. */
  take(job: StageAssignment, report: WorkerReport): void {
    const { models } = this.#ports;
    const { installed } = this.#progress.of(job);
    const isPinned = installed?.pinned === true && installed.digest === job.pinned;
    if (!installed || (installed.pinned === true && !isPinned)) return;
    // A worker that starts loads what is there already: only an installed model of this round counts.
    if (!isPinned && (installed.round !== job.round || job.stage !== 'Deploy')) return;
    if (report.status === 'failed') {
      withdrawHotUpdate(this.#folder(job));
      const { reason } = report.ownerInfo;
      const message = typeof reason === 'string' ? reason : 'the worker refused the model';
      if (!isPinned) this.#report(job, { status: 'failed', message });
      return;
    }
    this.#place(job, models.pathOf(installed.digest));
    if (isPinned) this.#tell(job, 'Pinned', installed.digest);
    else this.#report(job, { status: 'completed' });
  }
}
