import type { StageModel } from '@shoal/api';
import type { Clock, Logger } from '@shoal/core';
import type { DatasetMonitor } from '../dataset/monitor.ts';
import type { Link } from '../link/link.ts';
import type { ModelStore } from '../model/model-store.ts';
import type { HardExamples } from '../samples/hard-examples.ts';
import type { EdgeDatabase } from '../store/database.ts';

export interface JobPorts {
  readonly db: EdgeDatabase;
  readonly link: Link;
  readonly monitor: DatasetMonitor;
  readonly models: ModelStore;
  readonly hardExamples: HardExamples;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly hostPath: (path: string) => string;
}

/** What a worker said, as the worker API hands it on. */
export interface WorkerReport {
  readonly kind: string;
  readonly status: string | undefined;
  readonly results: readonly StageModel[];
  readonly ownerInfo: Readonly<Record<string, unknown>>;
}

/** Kinds of jobs with stages. */
export type StageJobKind = 'IncrementalLearningJob' | 'LifelongLearningJob';
