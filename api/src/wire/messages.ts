import { isJsonObject, type JsonObject } from '@shoal/core';
import type { DatasetSource, DatasetSourceStatus, Trigger } from '../kinds/types-generated.ts';
import type { ObjectMeta } from '../schema/metadata.ts';

/** What travels as JSON bodies over EdgeLink: assignments down, reports up. */

/** The identity of an object, without its status. */
export type Identity = Pick<ObjectMeta, 'name' | 'namespace' | 'uid' | 'generation'>;

/** A dataset this node watches. Feed kind `Dataset`. */
export interface DatasetAssignment {
  readonly metadata: Identity;
  readonly spec: {
    readonly url: string;
    readonly format: string;
    /** Where the node fetches a remote dataset from: for S3 a signed address that ends after a day. */
    readonly fetchUrl?: string;
    /** Who pushes samples into it. */
    readonly source?: DatasetSource;
    /** Keys of the Secret that the source names. */
    readonly credentials?: Readonly<Record<string, string>>;
  };
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
  /** Digest of a model that is on its way: fetched, not served yet. */
  readonly prefetch?: string;
  /** Digest of a model that was rolled back: where it is served, the one before comes back. */
  readonly withdrawn?: string;
  /** An accepted model waits at the edge until it is released there. */
  readonly hold?: boolean;
  /** Digest of the model that is served now, once one was deployed. */
  readonly served?: string;
  /** Digest of the model that is served whatever training brings. */
  readonly pinned?: string;
  readonly guards?: readonly GuardedFigure[];
  /** What an edge, and the cloud, keep of hard examples; undefined: they are not kept. */
  readonly spool?: SpoolLimits;
  /** For the dataset’s node: labelled samples to append. */
  readonly labelled?: LabelledBatch;
  /** When serving models were found to drift, RFC 3339, oldest first. */
  readonly driftAlarms?: readonly string[];
}

/**
 * A hard example on its way to the cloud. `data` is a line of the dataset without its label: what
 * is appended there once somebody has said what it is.
 */
export interface HardExample {
  /** `sha256:…` of the canonical JSON of `data`: the same sample is one sample. */
  readonly id: string;
  readonly data: JsonObject;
  /** What the served model took it for. */
  readonly predicted?: number | string;
  /** Class probabilities of the served model, the likeliest classes at least. */
  readonly probabilities?: readonly number[];
  /** Difficulty in [0, 1], and the threshold it was held against. */
  readonly score?: number;
  readonly threshold?: number;
  /** RFC 3339. */
  readonly collectedAt: string;
  readonly worker?: string;
}

/** Class index, or a name for datasets with names. */
export type SampleLabel = number | string;

/** A line of the blob with labelled samples that goes to the dataset’s node. */
export interface LabelledSample {
  readonly id: string;
  readonly data: JsonObject;
  readonly label: SampleLabel;
}

/** Samples for the dataset: a blob of {@link LabelledSample} lines. */
export interface LabelledBatch {
  readonly digest: string;
  readonly samples: number;
}

/** A figure of the evaluation in which a new model may not be worse than the deployed one. */
export interface GuardedFigure {
  readonly name: string;
  /** For example `accuracy@night`. */
  readonly figure: string;
  readonly maxDrop: number;
}

/** State record `<kind>/<namespace>/<name>/Samples`: a batch is in the dataset, for good. */
export interface SamplesReport {
  readonly uid: string;
  /** Digest of the batch: numbers begin anew when the cloud loses its store. */
  readonly digest: string;
  /** Samples that fit no line of the dataset, with the reason. */
  readonly refused: readonly { readonly id: string; readonly reason: string }[];
}

/** State record `<kind>/<namespace>/<name>/Inference`: what a node’s serving worker says of itself. */
export interface InferenceReport {
  readonly uid: string;
  readonly ownerInfo: Readonly<Record<string, unknown>>;
  readonly spool?: SpoolCounts;
}

export interface SpoolLimits {
  readonly maxSamples: number;
  readonly maxBytes: number;
  /** Samples of the job that the cloud keeps until they are in the dataset. */
  readonly inCloud: number;
}

/** Hard examples of a job on one node. */
export interface SpoolCounts {
  readonly collected: number;
  readonly dropped: number;
  readonly spooled: number;
}

/** State records `…/Pinned` and `…/Initial`: a model is installed here, or was served from the start. */
export interface ModelReport {
  readonly uid: string;
  readonly digest: string;
  /** Of the job as the node knew it when it said so. */
  readonly generation?: number;
}

/** State record `…/Rollout`: how far a node is with a model that is on its way to it. */
export interface RolloutReport {
  readonly uid: string;
  readonly digest: string;
  /** `held`: it is here, and waits for its release. */
  readonly state: 'pulled' | 'held' | 'released';
}

/** Entry of the log stream `figures`: what a node’s reports counted at a time, where that had changed. */
export interface FiguresEntry {
  /** RFC 3339, by the clock of the node. */
  readonly at: string;
  /** Numbers by the key of the report they are from. */
  readonly figures: Readonly<Record<string, Readonly<Record<string, number>>>>;
}

/** State record `<kind>/<namespace>/<name>/Fault`: what keeps a node from doing its part; empty once it can. */
export interface FaultReport {
  readonly uid: string;
  readonly message: string;
}

/** State record `Dataset/<namespace>/<name>`. */
export interface DatasetReport {
  readonly uid: string;
  readonly numberOfSamples?: number;
  /** What is wrong with the file, if anything. */
  readonly fault?: string;
  readonly source?: DatasetSourceStatus;
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

/** A service whose worker runs on this node as one of a group. Feed kind `JointInferenceService`. */
export interface ServiceAssignment {
  readonly metadata: Identity;
  readonly group: string;
  readonly model: StageModel;
}

/** State record `JointInferenceService/<namespace>/<name>/<worker>`, and the same of a `FederatedLearningJob`. */
export interface ServiceReport {
  readonly worker: string;
  readonly ownerInfo: Readonly<Record<string, unknown>>;
}

/** Whether a value is an entry of the log stream `figures`. */
export function isFigures(value: unknown): value is FiguresEntry {
  if (!isJsonObject(value) || typeof value['at'] !== 'string') return false;
  const { figures } = value;
  return isJsonObject(figures) && Object.values(figures).every(isJsonObject);
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
