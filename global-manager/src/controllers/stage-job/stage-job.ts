import type {
  Dataset,
  KubernetesObject,
  LabelledBatch,
  Placement,
  PlacementGroup,
  PlacementStatus,
  PodTemplate,
  ResolvedGroup,
  Rollout,
  RolloutStatus,
  StageAssignment,
  StageCondition,
  StageData,
} from '@shoal/api';
import type { KubeObject } from '../../kube/kube-api.ts';
import type { PlacedNode } from '../../placement/groups.ts';
import type { StagePosition } from '../../stages/machine.ts';

/** Status that the jobs with stages have in common. */
export interface StageJobStatus {
  readonly conditions?: readonly StageCondition[];
  readonly startTime?: string;
  readonly round?: number;
  readonly deployedModel?: string;
  readonly models?: readonly ServedModel[];
  readonly placement?: PlacementStatus;
  readonly rollout?: RolloutStatus;
  readonly message?: string;
  readonly observedGeneration?: number;
}

/** A model that was served. */
export interface ServedModel {
  readonly digest: string;
  readonly round: number;
  readonly deployedAt?: string;
  readonly metrics?: readonly { readonly key: string; readonly value: string }[];
}

/** What goes on beside the stages, seen anew at every look at the job. */
export interface Observed {
  /** Parts of the status it determines. */
  readonly status: object;
  /** For the dataset’s node. */
  readonly labelled?: LabelledBatch;
  readonly driftAlarms?: readonly string[];
  /** Nodes that still have hard examples to send, whatever else they do for the job. */
  readonly spooling?: readonly string[];
}

/** What the jobs with stages (incremental and lifelong learning) have in common. */
export interface StageJob extends KubernetesObject {
  readonly spec: {
    readonly dataset: { readonly name: string; readonly trainProb: number };
    readonly outputDir: string;
    readonly credentialName?: string;
    readonly trainSpec: { readonly template: PodTemplate };
    readonly evalSpec: { readonly template: PodTemplate };
    readonly deploySpec: { readonly template: PodTemplate };
    readonly placement?: Placement;
  };
  readonly status?: StageJobStatus;
}

/** What a job refers to, found. */
export interface StageReferences {
  readonly dataset: Dataset;
}

/** Where the pods of a stage find their inputs. */
export interface StagePodInputs {
  readonly stage: 'Train' | 'Eval';
  readonly round: number;
  readonly input: StageData;
}

/** A node of a group of the job. */
export type PlacedWorker = PlacedNode<PlacementGroup>;

export interface AssignmentInputs<Job, References> {
  readonly job: Job;
  readonly references: References;
  readonly position: StagePosition;
  /** Nodes where an inference pod runs. */
  readonly deployNodes: readonly string[];
  /** Node of the stage's worker, which reports there. */
  readonly workerNode: string | undefined;
  readonly observed?: Observed | undefined;
  /** Nodes of the groups, for a job that has them. */
  readonly placed?: readonly PlacedWorker[] | undefined;
}

/** What one paradigm adds to the stage machine. */
export interface StageJobKind<Job extends StageJob, References extends StageReferences> {
  /** For example `IncrementalLearningJob`. */
  readonly kind: string;
  /** Name of its controller. */
  readonly name: string;
  /** @throws ShoalError `not_found` or `invalid_argument` saying what is in the way. */
  readonly resolve: (job: Job) => References;
  /** Whether the served model changes without a new pod. */
  readonly hotUpdate: (job: Job) => boolean;
  /** Whether something is served yet. */
  readonly isServed: (job: Job, position: StagePosition | undefined) => boolean;
  /** @param at.placed The node of a group it is for; undefined: where its template says. */
  readonly createInferencePod: (
    job: Job,
    references: References,
    at: { readonly placed: PlacedWorker | undefined; readonly digest: string },
  ) => Promise<KubeObject>;
  /** Changes when what a placed worker runs with does: then its pod is replaced. */
  readonly servingDigest: (job: Job, references: References, placed: PlacedWorker) => string;
  /** Refuses overrides of groups that mean nothing here. @throws ShoalError `invalid_argument`. */
  readonly checkPlacement: (job: Job, placement: Placement) => void;
  /** What workers of a group run with. */
  readonly resolvedGroup: (job: Job, group: PlacementGroup) => ResolvedGroup;
  /** How a new model reaches the serving nodes; undefined: all at once. */
  readonly rollout?: (job: Job) => Rollout | undefined;
  readonly createStagePod: (
    job: Job,
    references: References,
    at: StagePodInputs,
  ) => Promise<KubeObject>;
  readonly assignments: (
    inputs: AssignmentInputs<Job, References>,
  ) => ReadonlyMap<string, StageAssignment>;
  /** Digest of the model that is to be served whatever training brings. */
  readonly pinned?: (job: Job) => string | undefined;
  /** Keeps what the job needs beside its stages, and says what goes on there. */
  readonly observe?: (job: Job, references: References) => Promise<Observed>;
  /** Calls back when something beside the stages may have changed. */
  readonly watch?: (changed: (namespace: string, name: string) => void) => void;
  /** A job is gone; another of its name may be there. */
  readonly forget?: (namespace: string, name: string, except: string) => void;
  /** Adds to the status what the output of a completed stage says. */
  readonly extendStatus?: (output: StageData) => object;
}
