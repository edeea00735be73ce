import type { StageAssignment, StageModel, StageReport } from '@shoal/api';
import type { SampleRange } from '../dataset/split.ts';
import type { EdgeDatabase } from '../store/database.ts';

/** A model on its way into the service of this node. */
export interface InstalledModel {
  readonly digest: string;
  readonly round: number;
  /** Why it is installed. */
  readonly as: 'accepted' | 'pinned' | 'restored';
  /** `pending` until all of it is in place; `waiting` for the worker; `done` once it has answered. */
  readonly state: 'pending' | 'waiting' | 'done';
  /** What stands in the pointer; workers name it in their answer. */
  readonly updated?: string;
  /** Why the worker does not take it. */
  readonly refused?: string;
}

export type Offer = Omit<StageReport, 'uid' | 'round' | 'stage'>;

/** What the node remembers of a job between restarts. */
export interface Progress {
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
    /** The newest drift alarm that this round answers. */
    readonly alarmsUntil?: string;
  };
  /** Evaluation samples of the newest rounds. */
  readonly evaluation: readonly SampleRange[];
  /** The model this node knows to be deployed; training goes on from it. */
  readonly deployed?: StageModel;
  readonly deployedDigest?: string;
  /** Models that were served, with their files on this node; newest last. */
  readonly history?: readonly { readonly digest: string; readonly model: StageModel }[];
  /** Drift alarms up to this one have been answered by a training. */
  readonly alarmsUntil?: string;
  /** The model this node last offered for deployment. */
  readonly candidate?: { readonly digest: string; readonly model: StageModel };
  /** The model installed on this node for serving. */
  readonly installed?: InstalledModel;
  /** The model that a worker of this node took last. */
  readonly confirmed?: { readonly digest: string; readonly updated: string };
  /** Digest of the model that somebody at this node let go on. */
  readonly released?: string;
  /** Digest of the model that was served before the first was installed. */
  readonly initial?: string;
}

const EMPTY: Progress = { consumed: 0, slices: [], evaluation: [] };

/** What the node remembers of its jobs, in its database. */
export class JobProgress {
  readonly #db: EdgeDatabase;

  constructor(db: EdgeDatabase) {
    this.#db = db;
  }

  key(job: StageAssignment): string {
    return `il/${job.metadata.uid}`;
  }

  isKnown(job: StageAssignment): boolean {
    return this.#db.progress(this.key(job)) !== undefined;
  }

  of(job: StageAssignment): Progress {
    return this.#db.progress<Progress>(this.key(job)) ?? EMPTY;
  }

  save(job: StageAssignment, change: Partial<Progress>): void {
    this.replace(job, { ...this.of(job), ...change });
  }

  replace(job: StageAssignment, value: Progress): void {
    this.#db.setProgress(this.key(job), value);
  }
}
