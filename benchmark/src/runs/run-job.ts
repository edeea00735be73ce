import type { ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { ShoalError } from '@shoal/core';
import type { Plan } from '../plan/plan.ts';
import { caseName, type PlannedCase } from '../plan/planned-case.ts';
import { type CaseEnd, CaseProcesses, runInProcess } from './case-runner.ts';
import { takeFolder } from './folder-lock.ts';
import { provenanceOf } from './provenance.ts';
import { type CaseRecord, RunStore } from './store.ts';

/** Runs a case somewhere else than in a process here. */
export type PlaceRunner = (
  planned: PlannedCase,
  options: {
    readonly signal: AbortSignal;
    readonly timeLimitSeconds: number;
    readonly onProgress: (share: number, text: string) => void;
  },
) => Promise<CaseEnd>;

export interface RunProgress {
  /** A case began, moved on or ended. */
  readonly onCase?: (event: CaseEvent) => void;
}

export interface CaseEvent {
  readonly name: string;
  readonly id: string;
  readonly kind: 'begun' | 'moved' | 'ended';
  /** Of the case, in [0, 1]. */
  readonly share: number;
  readonly text: string;
  readonly end?: CaseEnd;
  /** Cases ended so far, and all there are to run. */
  readonly done: number;
  readonly total: number;
}

export interface RunOptions extends RunProgress {
  /** Folder of the job's results. */
  readonly folder: string;
  /** Cases at once; default one for each core. */
  readonly parallel?: number;
  readonly timeLimitSeconds?: number;
  /** Runs what has run before as well. */
  readonly fresh?: boolean;
  readonly signal: AbortSignal;
  /** Default: a process here. */
  readonly place?: {
    readonly name: string;
    readonly run: PlaceRunner;
    /** Hash of the code behind it: what another code made is run again. Default none. */
    readonly code?: string;
  };
}

export interface RunSummary {
  readonly ran: number;
  /** Had run before, and nothing they are made of has changed. */
  readonly kept: number;
  readonly failed: readonly {
    readonly name: string;
    readonly error: string;
    readonly log: string;
  }[];
  readonly seconds: number;
}

export const PROCESS = 'process';

/** Two jobs of one name in one folder would show each other's results. */
function expectSameJob(
  before: string | undefined,
  now: string,
  name: string,
  folder: string,
): void {
  if (before === undefined || before === now) return;
  throw new ShoalError(
    'failed_precondition',
    `${folder} holds results of another file with a job called "${name}"; rename one of them, or give another --workspace`,
  );
}

/** Runs a case where it belongs; one that cannot run ends at once. */
async function endOf(
  planned: PlannedCase,
  at: {
    readonly place: PlaceRunner | undefined;
    readonly limits: Parameters<PlaceRunner>[1];
    readonly log: string;
    readonly process: () => ChildProcess;
  },
): Promise<CaseEnd> {
  const { place, limits, log } = at;
  if (planned.problem !== undefined) return { state: 'failed', error: planned.problem, seconds: 0 };
  // A bound (all data in one place, each alone) is no job of a cluster.
  if (place && !planned.algorithm.baseline) return await place(planned, limits);
  return await runInProcess(planned, { ...limits, log, process: at.process() });
}

/** Whether a case has run, and the same code would run it again. */
function isKept(kept: CaseRecord | undefined, code: string): boolean {
  return kept?.state === 'done' && kept.code === code;
}

/**
 * Runs the cases of a plan that have not run yet, several at a time, and stores each as it ends. A case
 * that fails or takes too long is noted, and the others go on.
 */
export async function runJob(plan: Plan, options: RunOptions): Promise<RunSummary> {
  const { folder, signal, fresh = false } = options;
  const place = options.place?.name ?? PROCESS;
  const release = takeFolder(folder);
  const store = RunStore.open(folder);
  const processes = new CaseProcesses();
  const startedAt = performance.now();
  try {
    const provenance = provenanceOf(plan.job.file, plan.job.seeds);
    expectSameJob(store.latest(place)?.provenance.job, provenance.job, plan.job.name, folder);
    store.begin(plan.cases, place, provenance);
    const code = options.place?.code ?? '';
    const waiting = plan.cases.filter((c) => fresh || !isKept(store.get(c.id, place), code));
    const failed: { name: string; error: string; log: string }[] = [];
    const total = waiting.length;
    let done = 0;
    const queue = [...waiting];
    const one = async (planned: PlannedCase): Promise<void> => {
      const name = caseName(planned);
      const log = join(folder, 'logs', `${planned.id}.log`);
      const tell = (kind: CaseEvent['kind'], more: Partial<CaseEvent> = {}): void =>
        options.onCase?.({ name, id: planned.id, kind, share: 0, text: '', done, total, ...more });
      tell('begun');
      const limits = {
        signal,
        timeLimitSeconds: options.timeLimitSeconds ?? plan.job.timeLimitSeconds,
        onProgress: (share: number, text: string) => tell('moved', { share, text }),
      };
      const end = await endOf(planned, {
        place: options.place?.run,
        limits,
        log,
        process: () => processes.take(queue.length > 0),
      });
      // A run that was called off says nothing about the case.
      if (signal.aborted && end.state !== 'done') return;
      store.put(planned, { ...end, place, code }, new Date().toISOString());
      done++;
      if (end.state !== 'done')
        failed.push({ name, error: end.error ?? '', log: existsSync(log) ? log : '' });
      tell('ended', { share: 1, end });
    };
    const worker = async (): Promise<void> => {
      for (let next = queue.shift(); next && !signal.aborted; next = queue.shift()) await one(next);
    };
    const parallel = options.place ? 1 : Math.max(1, options.parallel ?? availableParallelism());
    await Promise.all(Array.from({ length: Math.min(parallel, total) }, worker));
    return {
      ran: done,
      kept: plan.cases.length - total,
      failed,
      seconds: (performance.now() - startedAt) / 1000,
    };
  } finally {
    processes.close();
    store.close();
    release();
  }
}
