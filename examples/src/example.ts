/** Data an example runs on: generated, or a public data set (`shoal dataset pull`). */
export type DataKind = 'generated' | 'mnist' | 'ashrae' | 'heart-disease';

/** What an example can do with the cluster it runs on. */
export interface ExampleContext {
  /** Which data: the project's generator, or a public data set that the example knows. */
  readonly data: DataKind;
  /** One of several in a row: fewer repeats will do. */
  readonly isShort: boolean;
  readonly signal: AbortSignal;
  /** Names of the nodes. */
  readonly cloudNode: string;
  readonly edgeNodes: readonly string[];
  /** A path of a node's file system as this process sees it (parents are made). */
  readonly nodePath: (node: string, path: string) => string;
  /** Applies objects: creates them, or brings existing ones up to date. */
  readonly apply: (objects: readonly object[]) => Promise<void>;
  /** Reads one object; undefined when there is none. */
  readonly get: (kind: string, name: string) => Promise<ClusterObject | undefined>;
  readonly remove: (kind: string, name: string) => Promise<void>;
  /** Shows what is going on: a stage, or progress in [0, 1] of the current one. */
  readonly stage: (text: string) => void;
  readonly progress: (share: number, text?: string) => void;
}

/** An object as the API server returns it. */
export interface ClusterObject {
  readonly metadata: { readonly name: string; readonly uid?: string };
  readonly spec?: unknown;
  readonly status?: unknown;
}

export interface ResultRow {
  readonly measure: string;
  readonly value: number;
  /** How the value is printed. */
  /** A share is in [0, 1]. */
  readonly unit: 'share' | 'ms' | 'seconds' | 'count' | 'points';
  readonly note?: string;
}

export interface ExampleResult {
  readonly example: string;
  readonly data: string;
  readonly rows: readonly ResultRow[];
  /** R[i][j] by way of learning: accuracy on task j after learning task i. */
  readonly matrices?: Readonly<Record<string, readonly (readonly number[])[]>>;
  /** Pictures that were written. */
  readonly files?: readonly string[];
}

/** A case that `shoal run` can run: prepares data and models, runs the job, measures. */
export interface Example {
  /** `<paradigm>/<case>`, also its folder. */
  readonly name: string;
  readonly title: string;
  /** Data it can run on; `generated` is always first. */
  readonly data: readonly DataKind[];
  /** Run when it is asked for by name, not as one of all. */
  readonly isExtra?: boolean;
  readonly run: (context: ExampleContext) => Promise<ExampleResult>;
}
