import type { JsonObject } from '@shoal/core';

/** Where a revision of a task stands; it only ever moves to the right. */
export const TASK_STATES = ['candidate', 'refused', 'admitted', 'retired'] as const;
export type TaskState = (typeof TASK_STATES)[number];

/** One revision of a task: what it is about, and the model that knows it. */
export interface KnowledgeTask {
  /** Unique in the job; with the revision and the model's digest it names this record. */
  readonly name: string;
  /** Counts the trainings of this task, from 1. */
  readonly revision: number;
  readonly state: TaskState;
  readonly attributes: Readonly<Record<string, string>>;
  /** `sha256:…` of the model file. */
  readonly model: string;
  readonly modelBytes: number;
  /** Samples the model was trained on. */
  readonly samples: number;
  readonly metrics: Readonly<Record<string, number>>;
  readonly classes: readonly string[];
  /** What components keep of a task: centroid, calibration scores. */
  readonly knowledge: JsonObject;
  /** Why it was refused or retired. */
  readonly reason?: string;
}

/** A value all tasks share, such as the feature extractor or the allocator. */
export interface SharedValue {
  readonly name: string;
  readonly revision: number;
  readonly value: JsonObject;
}

/** How two tasks relate; the higher revision counts. */
export interface TaskRelation {
  readonly from: string;
  readonly to: string;
  /** For example `transfer` or `similarity`. */
  readonly kind: string;
  readonly revision: number;
  readonly value: number;
}

/** A sample an edge could not place. */
export interface KnowledgeSample {
  /** Chosen by whoever met it; the same id twice is one sample. */
  readonly id: string;
  readonly edge: string;
  /** Nearest known task; empty when none is near. */
  readonly task: string;
  readonly attributes: Readonly<Record<string, string>>;
  /** Shape of the sample. */
  readonly shape: readonly number[];
  readonly inputs: Float32Array;
  /** Set once somebody said what it is. */
  readonly label?: number;
  readonly recordedAtMs: number;
}

/** One thing that became known. Changes may come in any order and more than once. */
export type Change =
  | { readonly kind: 'task'; readonly task: Omit<KnowledgeTask, 'state' | 'reason'> }
  | {
      readonly kind: 'verdict';
      readonly task: string;
      readonly revision: number;
      readonly model: string;
      readonly state: Exclude<TaskState, 'candidate'>;
      readonly reason?: string;
      readonly metrics?: Readonly<Record<string, number>>;
    }
  | { readonly kind: 'shared'; readonly shared: SharedValue }
  | { readonly kind: 'relation'; readonly relation: TaskRelation }
  | { readonly kind: 'sample'; readonly sample: KnowledgeSample }
  | {
      readonly kind: 'label';
      readonly sample: string;
      readonly label: number;
      readonly by: string;
      readonly atMs: number;
    }
  | {
      readonly kind: 'usage';
      readonly edge: string;
      readonly counters: Readonly<Record<string, number>>;
    };

/** Figures of one edge, each of which only grows. */
export interface EdgeUsage {
  readonly edge: string;
  readonly counters: Readonly<Record<string, number>>;
}

/** What is known at one version. */
export interface KnowledgeSnapshot {
  readonly version: number;
  /** The admitted revision of each task, by name. */
  readonly tasks: readonly KnowledgeTask[];
  readonly shared: readonly SharedValue[];
  readonly relations: readonly TaskRelation[];
  readonly usage: readonly EdgeUsage[];
  readonly unseenSamples: number;
  readonly labelledSamples: number;
  /** Bytes of models and samples. */
  readonly storedBytes: number;
}

export interface SampleQuery {
  /** Only those with a label (`true`) or without one (`false`); default both. */
  readonly labelled?: boolean;
  /** At most this many, oldest first; default all. */
  readonly limit?: number;
}

export interface Neighbour {
  readonly task: string;
  /** Distance of centroids, in the feature extractor's units. */
  readonly distance: number;
}

/**
 * The knowledge base of one job, wherever it is: in this process or behind gRPC.
 * Every method throws ShoalError `unavailable` when it cannot be reached and `resource_exhausted`
 * when it is full; nothing it accepted is lost by either.
 */
export interface KnowledgeBase {
  /** @param version Default the newest. */
  snapshot(version?: number): Promise<KnowledgeSnapshot>;
  /** All changes or none. @returns The version that holds them. */
  commit(changes: readonly Change[]): Promise<number>;
  /** Keeps a model file durably. @returns Its digest. */
  putModel(bytes: Uint8Array): Promise<string>;
  /** @throws ShoalError `not_found`. */
  getModel(digest: string): Promise<Uint8Array>;
  samples(query?: SampleQuery): Promise<readonly KnowledgeSample[]>;
  /** Admitted tasks nearest to a point in feature space, nearest first. */
  nearest(features: Float32Array, count: number): Promise<readonly Neighbour[]>;
}
