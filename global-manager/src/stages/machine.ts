import type { Stage, StageData, StageReport, StageState } from '@shoal/api';

/** Where a job stands. */
export interface StagePosition {
  readonly round: number;
  readonly stage: Stage;
  readonly state: StageState;
}

export type PodPhase = 'None' | 'Pending' | 'Running' | 'Succeeded' | 'Failed';

/** What is known of the world when the machine is asked for its next move. */
export interface StageFacts {
  /** Newest report of the node that holds the dataset, about this round and stage. */
  readonly report: StageReport | undefined;
  /** Newest report of the node that serves the model, about this round (Deploy only). */
  readonly deployment: StageReport | undefined;
  /** The pod of this round and stage (Deploy: the inference pod). */
  readonly pod: {
    readonly phase: PodPhase;
    readonly message?: string;
    readonly endedForMs: number;
  };
  readonly hotUpdate: boolean;
  /** How long the position has been held, in milliseconds. */
  readonly heldMs: number;
  /** Rounds that failed one after another just before. */
  readonly failures: number;
}

export type StageMove =
  | { readonly kind: 'stay'; readonly lookAgainMs?: number }
  | { readonly kind: 'createPod' }
  | { readonly kind: 'restartInference' }
  | {
      readonly kind: 'go';
      readonly to: StagePosition;
      readonly data?: { input?: StageData; output?: StageData };
      readonly message?: string;
    };

const NEXT: Readonly<Record<Stage, Stage>> = { Train: 'Eval', Eval: 'Deploy', Deploy: 'Train' };
/** A pod that ended well has this long for its worker's report to arrive. */
const REPORT_GRACE_MS = 20_000;
const RETRY_BASE_MS = 2_000;
const RETRY_CAP_MS = 300_000;

export const START: StagePosition = { round: 1, stage: 'Train', state: 'Waiting' };

type Details = Pick<Extract<StageMove, { kind: 'go' }>, 'data' | 'message'>;

function go(from: StagePosition, state: StageState, details: Details = {}): StageMove {
  return { kind: 'go', to: { ...from, state }, ...details };
}

function fail(at: StagePosition, message: string | undefined): StageMove {
  return go(at, 'Failed', { message: message ?? `${at.stage} failed` });
}

function waiting(at: StagePosition, { report }: StageFacts): StageMove {
  if (!report) return { kind: 'stay' };
  const details: Details = {
    ...(report.input || report.output
      ? {
          data: {
            ...(report.input ? { input: report.input } : {}),
            ...(report.output ? { output: report.output } : {}),
          },
        }
      : {}),
    ...(report.message ? { message: report.message } : {}),
  };
  if (report.status === 'ready') return go(at, 'Ready', details);
  if (report.status === 'completed') return go(at, 'Completed', details);
  return fail(at, report.message);
}

function ready(at: StagePosition, facts: StageFacts): StageMove {
  if (at.stage !== 'Deploy')
    return facts.pod.phase === 'None' ? { kind: 'createPod' } : go(at, 'Starting');
  return go(at, 'Starting');
}

function training(at: StagePosition, facts: StageFacts): StageMove {
  const { report, pod } = facts;
  if (report?.status === 'completed' && report.output)
    return go(at, 'Completed', { data: { output: report.output } });
  if (report?.status === 'failed') return fail(at, report.message);
  if (pod.phase === 'Failed') return fail(at, pod.message ?? 'the worker failed');
  if (pod.phase === 'None')
    return at.state === 'Starting'
      ? { kind: 'createPod' }
      : fail(at, 'the worker’s pod was deleted');
  if (pod.phase === 'Succeeded') {
    if (pod.endedForMs > REPORT_GRACE_MS)
      return fail(at, 'the worker ended without reporting a result');
    return { kind: 'stay', lookAgainMs: REPORT_GRACE_MS - pod.endedForMs + 1 };
  }
  if (at.state === 'Starting' && pod.phase === 'Running') return go(at, 'Running');
  return { kind: 'stay' };
}

function deploying(at: StagePosition, facts: StageFacts): StageMove {
  const { deployment, pod, hotUpdate } = facts;
  if (deployment?.status === 'failed') return fail(at, deployment.message);
  if (at.state === 'Starting') {
    if (!hotUpdate)
      return deployment?.status === 'completed' ? { kind: 'restartInference' } : { kind: 'stay' };
    return pod.phase === 'Running' ? go(at, 'Running') : { kind: 'stay' };
  }
  return deployment?.status === 'completed' ? go(at, 'Completed') : { kind: 'stay' };
}

/** The stage machine of the contract (§1.8) as a pure function: where a job goes from here. */
export function nextMove(at: StagePosition, facts: StageFacts): StageMove {
  switch (at.state) {
    case 'Waiting':
      return waiting(at, facts);
    case 'Ready':
      return ready(at, facts);
    case 'Starting':
    case 'Running':
      return at.stage === 'Deploy' ? deploying(at, facts) : training(at, facts);
    case 'Completed': {
      const stage = NEXT[at.stage];
      return {
        kind: 'go',
        to: { round: at.round + (stage === 'Train' ? 1 : 0), stage, state: 'Waiting' },
      };
    }
    case 'Failed': {
      const wait = Math.min(RETRY_CAP_MS, RETRY_BASE_MS * 2 ** Math.min(20, facts.failures));
      if (facts.heldMs < wait) return { kind: 'stay', lookAgainMs: wait - facts.heldMs };
      return { kind: 'go', to: { round: at.round + 1, stage: 'Train', state: 'Waiting' } };
    }
  }
}
