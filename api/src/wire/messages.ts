import type { JsonObject } from '@shoal/core';
import type { Trigger } from '../kinds/types-generated.ts';
import type { ObjectMeta } from '../schema/metadata.ts';

/** What travels as JSON bodies over EdgeLink: assignments down, reports up. */

/** The identity of an object, without its status. */
export type Identity = Pick<ObjectMeta, 'name' | 'namespace' | 'uid' | 'generation'>;

/** A dataset this node watches. Feed kind `Dataset`. */
export interface DatasetAssignment {
  readonly metadata: Identity;
  readonly spec: { readonly url: string; readonly format: string };
}

export type Stage = 'Train' | 'Eval' | 'Deploy';
export type StageState = 'Waiting' | 'Ready' | 'Starting' | 'Running' | 'Completed' | 'Failed';

/** A model as a stage's input or output. */
export interface StageModel {
  readonly format: string;
  readonly url: string;
  /** Present once the content was published: `sha256:…`. */
  readonly digest?: string;
  readonly metrics?: Readonly<Record<string, number | readonly number[]>>;
}

/** Inputs or outputs of a stage; `data` of a stage condition is `{input?, output?}` of these. */
export interface StageData {
  readonly models?: readonly StageModel[];
  readonly dataURL?: string;
  readonly outputDir?: string;
  /** What the knowledge base holds after this stage, in the words of `status.knowledgeBase`. */
  readonly knowledgeBase?: JsonObject;
}

/**
 * A job with stages as the nodes that work for it see it. Feed kinds `IncrementalLearningJob` and
 * `LifelongLearningJob`; of a lifelong job, a model is an index of the knowledge base.
 */
export interface StageAssignment {
  readonly metadata: Identity;
  /** What this node does for the job. */
  readonly roles: readonly ('dataset' | 'worker' | 'deploy')[];
  readonly dataset: DatasetAssignment;
  readonly trainProb: number;
  readonly initialModel: StageModel;
  readonly deployModel: StageModel;
  readonly evalModel?: StageModel;
  readonly hotUpdate: boolean;
  /** Whether an evaluation holds the new model against the old; otherwise it judges by itself. */
  readonly evaluatesPair: boolean;
  readonly trainTrigger: Trigger;
  readonly deployTrigger: Trigger;
  readonly outputDir: string;
  /** Where the stage machine stands. */
  readonly round: number;
  readonly stage: Stage;
  readonly state: StageState;
  /** Output of the newest completed stage before this one. */
  readonly previous?: StageData;
  /** While a model is being deployed: its digest; the serving nodes pull it by that. */
  readonly accepted?: string;
  /** Digest of the model that is served now, once one was deployed. */
  readonly served?: string;
}

/** State record `Dataset/<namespace>/<name>`. */
export interface DatasetReport {
  readonly uid: string;
  readonly numberOfSamples?: number;
  /** What is wrong with the file, if anything. */
  readonly fault?: string;
}

/** State record `<kind>/<namespace>/<name>/<stage>` of a job with stages. */
export interface StageReport {
  readonly uid: string;
  readonly round: number;
  readonly stage: Stage;
  readonly status: 'ready' | 'completed' | 'failed';
  readonly input?: StageData;
  readonly output?: StageData;
  readonly message?: string;
}

/** State record `JointInferenceService/<namespace>/<name>/<worker>`, and the same of a `FederatedLearningJob`. */
export interface ServiceReport {
  readonly worker: string;
  readonly ownerInfo: Readonly<Record<string, unknown>>;
}

/** `kind/namespace/name[/part]` of a record or a feed entry. */
export function recordKey(
  kind: string,
  metadata: Pick<ObjectMeta, 'namespace' | 'name'>,
  part?: string,
): string {
  const base = `${kind}/${metadata.namespace ?? ''}/${metadata.name}`;
  return part === undefined ? base : `${base}/${part}`;
}

/** Name of a stage's folder and of its worker type. */
export function stageName(stage: Stage): 'train' | 'eval' | 'deploy' {
  return stage === 'Train' ? 'train' : stage === 'Eval' ? 'eval' : 'deploy';
}

/** Host folder where a job's hot update files are, as the contract names it. */
export function hotUpdateFolder(
  kind: string,
  metadata: Pick<Identity, 'namespace' | 'name'>,
): string {
  const { namespace = 'default', name } = metadata;
  return `/var/lib/sedna/model-hot-update/${namespace}/${kind.toLowerCase()}/${name}`;
}
