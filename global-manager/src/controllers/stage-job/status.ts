import { bounded, type StageCondition, type StageData, type StageModel } from '@shoal/api';
import { rfc3339 } from '@shoal/core';
import { START, type StageMove, type StagePosition } from '../../stages/machine.ts';
import type { ServedModel, StageJob, StageJobStatus } from './stage-job.ts';

/** Where a job stands: its newest condition, and the round in its status. */
export function positionOf(job: StageJob): StagePosition | undefined {
  const last = job.status?.conditions?.at(-1);
  return last ? { round: job.status?.round ?? 1, stage: last.stage, state: last.type } : undefined;
}

function parseData(condition: StageCondition | undefined): {
  input?: StageData;
  output?: StageData;
} {
  if (!condition?.data) return {};
  return JSON.parse(condition.data) as { input?: StageData; output?: StageData };
}

/** Inputs of the current stage: the newest condition of this stage that carries some. */
export function currentInput(job: StageJob, stage: string): StageData | undefined {
  const own = (job.status?.conditions ?? []).filter((c) => c.stage === stage);
  return own.map(parseData).findLast((d) => d.input)?.input;
}

/** Output of the newest completed stage of this name. */
export function newestOutput(job: StageJob, stage: string): StageData | undefined {
  const done = (job.status?.conditions ?? []).filter(
    (c) => c.stage === stage && c.type === 'Completed',
  );
  return done.map(parseData).findLast((d) => d.output)?.output;
}

/** How long the job has been where it is. */
export function heldMs(job: StageJob, nowMs: number): number {
  const since = job.status?.conditions?.at(-1)?.lastTransitionTime;
  return since ? nowMs - Date.parse(since) : 0;
}

/** Rounds that failed in a row, up to now. */
export function failuresInRow(job: StageJob): number {
  const ends = (job.status?.conditions ?? []).filter(
    (c) => c.type === 'Failed' || (c.type === 'Completed' && c.stage === 'Eval'),
  );
  const lastGood = ends.findLastIndex((c) => c.type === 'Completed');
  return ends.length - 1 - lastGood;
}

/** Models that were served are remembered up to this many. */
const KEPT_MODELS = 10;

/** The history with one more model at its end; one that was there before moves there. */
export function withServed(
  known: readonly ServedModel[] | undefined,
  model: ServedModel,
): readonly ServedModel[] {
  const before = known?.find((m) => m.digest === model.digest);
  const others = (known ?? []).filter((m) => m.digest !== model.digest);
  return [...others, { ...before, ...model }].slice(-KEPT_MODELS);
}

/** Figures as the status holds them. */
export function figuresAsText(
  metrics: StageModel['metrics'],
): { readonly key: string; readonly value: string }[] {
  return Object.entries(metrics ?? {}).map(([key, value]) => ({
    key,
    value: typeof value === 'number' ? String(Number(value.toPrecision(6))) : JSON.stringify(value),
  }));
}

/** The status after a move. */
export function advanced(
  job: StageJob,
  move: Extract<StageMove, { kind: 'go' }>,
  nowMs: number,
): StageJobStatus {
  const { to, data, message } = move;
  const stamp = rfc3339(nowMs);
  const condition: StageCondition = {
    type: to.state,
    status: 'True',
    stage: to.stage,
    lastHeartbeatTime: stamp,
    lastTransitionTime: stamp,
    ...(message ? { message } : {}),
    ...(data ? { data: JSON.stringify(data) } : {}),
  };
  const { message: _old, ...rest } = job.status ?? {};
  return {
    ...rest,
    conditions: bounded([...(job.status?.conditions ?? []), condition]),
    startTime: job.status?.startTime ?? stamp,
    round: to.round,
    ...(job.metadata.generation === undefined
      ? {}
      : { observedGeneration: job.metadata.generation }),
    ...(to.state === 'Failed' && message ? { message } : {}),
  };
}

/** The status of a job that is seen for the first time. */
export function begun(job: StageJob, nowMs: number): StageJobStatus {
  return advanced(job, { kind: 'go', to: START }, nowMs);
}
