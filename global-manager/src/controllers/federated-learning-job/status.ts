import {
  appendCondition,
  type Condition,
  type FederatedLearningJob,
  type PodSpec,
  type ServiceReport,
} from '@shoal/api';
import { isJsonObject, type JsonObject, rfc3339 } from '@shoal/core';
import type { Records } from '../../edge-link/records.ts';
import type { KubeObject } from '../../kube/kube-api.ts';
import { sharedPart } from '../../placement/status.ts';
import { workOf } from '../job-nodes.ts';
import { phaseOf, troubleOf } from '../pod-trouble.ts';
import { SLOT_LABEL, type Slot } from './workers.ts';

const MAX_ROUNDS = 50;
/** Characters of a reason in the status. */
const MAX_MESSAGE = 300;

/** A figure of all rounds: as the last one has it, or, of an older aggregator, of those that are told. */
function totalOf(rounds: readonly JsonObject[], each: string, total: string): number {
  const whole = rounds.at(-1)?.[total];
  if (typeof whole === 'number') return whole;
  return rounds.reduce((n, r) => n + Number(r[each] ?? 0), 0);
}

function lastRound(rounds: readonly JsonObject[]): number {
  const round = Number(rounds.at(-1)?.['round']);
  return Number.isFinite(round) ? round : 0;
}

function roundsOf(reports: readonly ServiceReport[]): JsonObject[] {
  const rounds = reports
    .map(({ ownerInfo }) => ownerInfo['rounds'])
    .filter(Array.isArray) as unknown[][];
  // All are told the last rounds only: the newest report is that with the last round.
  const newest = rounds
    .map((list) => list.filter(isJsonObject))
    .toSorted((a, b) => lastRound(b) - lastRound(a) || b.length - a.length);
  return newest[0] ?? [];
}

function figure(value: unknown, digits: number): string | undefined {
  return typeof value === 'number' && Number.isFinite(value) ? value.toFixed(digits) : undefined;
}

function percent(value: unknown): string | undefined {
  return typeof value === 'number' && Number.isFinite(value)
    ? `${(value * 100).toFixed(1)} %`
    : undefined;
}

/** `10th / 50th / 90th percentile`, in percent. */
function spreadText(spread: unknown): string | undefined {
  const values = isJsonObject(spread) ? spread['accuracy'] : undefined;
  if (!Array.isArray(values)) return undefined;
  return values.map((v) => percent(v) ?? '?').join(' / ');
}

function roundRow(round: JsonObject): JsonObject {
  const metrics = isJsonObject(round['metrics']) ? round['metrics'] : {};
  const validation = isJsonObject(round['validation']) ? round['validation'] : {};
  const row = {
    round: Number(round['round']),
    participants: Number(round['participants']),
    samples: Number(round['samples']),
    loss: figure(metrics['loss'], 4),
    accuracy: percent(metrics['accuracy']),
    accuracySpread: spreadText(round['spread']),
    validationLoss: figure(validation['loss'], 4),
    validationAccuracy: percent(validation['accuracy']),
    bytesUp: Number(round['bytesUp']),
    bytesDown: Number(round['bytesDown']),
    durationMs: Math.round(Number(round['durationMs'])),
    epsilon: figure(round['epsilon'], 3),
  };
  return JSON.parse(JSON.stringify(row)) as JsonObject;
}

/** What models are compared by: held-out scores where there are some, accuracy before the loss. */
function scoreOf({ validation, metrics }: JsonObject): number {
  const scores = isJsonObject(validation) ? validation : isJsonObject(metrics) ? metrics : {};
  const loss = Number(scores['loss'] ?? Number.POSITIVE_INFINITY);
  return Number(scores['accuracy'] ?? -loss);
}

function bestRound(rounds: readonly JsonObject[]): number | undefined {
  const best = rounds.toSorted((a, b) => scoreOf(b) - scoreOf(a))[0];
  return best === undefined ? undefined : Number(best['round']);
}

/** Every participant that has a pod, with what it reports. */
function participantsOf(
  pods: readonly KubeObject[],
  reports: readonly ServiceReport[],
): JsonObject[] {
  const byName = new Map(reports.map((r) => [r.worker, r.ownerInfo]));
  return pods
    .flatMap((pod) => {
      const env = podEnvironment(pod);
      const name = env.get('WORKER_NAME') ?? '';
      if (!pod.metadata.labels?.[SLOT_LABEL]?.startsWith('train-')) return [];
      const info = byName.get(name) ?? {};
      const group = /-(group-[^.]+)\./.exec(env.get('AGG_IP') ?? '')?.[1];
      const node = (pod as { spec?: { nodeName?: string } }).spec?.nodeName;
      return [
        {
          name,
          state: phaseOf(pod),
          ...(group ? { group: group.slice('group-'.length) } : {}),
          ...(node ? { node } : {}),
          round: Number(info['currentRound'] ?? 0),
          samples: Number(info['sampleCount'] ?? 0),
          ...(typeof info['updateTime'] === 'string' ? { updateTime: info['updateTime'] } : {}),
          ...(typeof info['message'] === 'string' && info['message'] !== ''
            ? { message: info['message'].slice(0, MAX_MESSAGE) }
            : {}),
        },
      ];
    })
    .toSorted((a, b) => a.name.localeCompare(b.name, 'en', { numeric: true }));
}

function podEnvironment(pod: KubeObject): Map<string, string> {
  const { spec } = pod as { spec?: PodSpec };
  const env = spec?.containers[0]?.env ?? [];
  return new Map(env.map((e) => [e.name, e.value ?? '']));
}

/** Figures of the federation, as its participants report them. */
function federationFigures(
  job: FederatedLearningJob,
  pods: readonly KubeObject[],
  records: Records,
): JsonObject {
  const reports = records
    .said<ServiceReport>(workOf('FederatedLearningJob', job))
    .map((r) => r.body);
  const rounds = roundsOf(reports);
  const last = rounds.at(-1);
  const metrics = isJsonObject(last?.['metrics']) ? last['metrics'] : {};
  const participants = participantsOf(pods, reports);
  const told = last?.['bestRound'];
  const best = typeof told === 'number' ? told : bestRound(rounds);
  const [accuracy, epsilon] = [percent(metrics['accuracy']), figure(last?.['epsilon'], 3)];
  return {
    ...(last
      ? {
          currentRound: Number(last['round']),
          bytesUp: totalOf(rounds, 'bytesUp', 'totalBytesUp'),
          bytesDown: totalOf(rounds, 'bytesDown', 'totalBytesDown'),
          rounds: rounds.slice(-MAX_ROUNDS).map(roundRow),
        }
      : {}),
    ...(best === undefined ? {} : { bestRound: best }),
    ...(accuracy === undefined ? {} : { accuracy }),
    ...(epsilon === undefined ? {} : { epsilon }),
    ...(participants.length > 0 ? { participants } : {}),
  } as JsonObject;
}

type Phase = 'Pending' | 'Running' | 'Succeeded' | 'Failed';

/** Why the round cannot go on, as the aggregator told its participants; undefined while it does. */
function waitingReason(job: FederatedLearningJob, records: Records): string | undefined {
  const newest = records
    .said<ServiceReport>(workOf('FederatedLearningJob', job))
    .map(({ body }) => body.ownerInfo)
    .toSorted((a, b) => String(b['updateTime']).localeCompare(String(a['updateTime'])))[0];
  const reason = newest?.['waiting'];
  return typeof reason === 'string' && reason !== '' ? reason : undefined;
}

function conditionFor(
  phase: Phase,
  pods: readonly KubeObject[],
  at: { readonly workers: number; readonly waiting: string | undefined },
): Condition {
  const { workers } = at;
  const trouble = pods.map(troubleOf).find((t) => t !== undefined) ?? at.waiting;
  const running = pods.filter((p) => phaseOf(p) === 'Running').length;
  switch (phase) {
    case 'Succeeded':
      return {
        type: 'Complete',
        status: 'True',
        reason: 'AllRoundsDone',
        message: 'every worker ended well',
      };
    case 'Failed':
      return {
        type: 'Failed',
        status: 'True',
        reason: 'WorkerFailed',
        message: trouble ?? 'a worker failed',
      };
    case 'Running':
      return {
        type: 'Training',
        status: 'True',
        reason: 'DoTraining',
        message: trouble ? `waits: ${trouble}` : `${running} of ${workers} workers are running`,
      };
    case 'Pending':
      return {
        type: 'Pending',
        status: 'True',
        reason: 'WorkersStarting',
        message: trouble ?? `${running} of ${workers} workers are running`,
      };
  }
}

/** Whether the aggregator has ended well: the model is written, whatever participants still do. */
export function isAggregated(pods: Iterable<KubeObject>): boolean {
  return [...pods].some(
    (p) => p.metadata.labels?.[SLOT_LABEL] === 'aggregation' && phaseOf(p) === 'Succeeded',
  );
}

function phaseFrom(pods: readonly KubeObject[], workers: number): Phase {
  const phases = pods.map(phaseOf);
  if (isAggregated(pods) && !phases.includes('Running') && !phases.includes('Pending'))
    return 'Succeeded';
  if (phases.includes('Failed')) return 'Failed';
  if (phases.length === workers && phases.every((p) => p === 'Succeeded')) return 'Succeeded';
  return phases.includes('Running') ? 'Running' : 'Pending';
}

/** Participants by group of nodes, and what differs there. */
function placementOf({
  job,
  pods,
  slots,
}: Parameters<typeof jobStatus>[0]): Pick<Status, 'placement'> {
  const groups = job.spec.placement?.groups;
  if (!groups || slots.length === 0) return {};
  const running = new Set(
    pods.filter((p) => phaseOf(p) === 'Running').map((p) => p.metadata.labels?.[SLOT_LABEL]),
  );
  const rows = groups.map(({ name, overrides }) => {
    const own = slots.filter((s) => s.placed?.name === name);
    const parameters = overrides?.parameters;
    return {
      name,
      nodes: own.length,
      ready: own.filter((s) => running.has(s.name)).length,
      members: own.map((s) => s.template.spec?.nodeName ?? s.dataset?.spec.nodeName ?? s.name),
      resolved: { ...(parameters ? { parameters } : {}), ...sharedPart(overrides) },
    };
  });
  const sum = (of: 'nodes' | 'ready'): number => rows.reduce((n, r) => n + r[of], 0);
  return { placement: { nodes: sum('nodes'), ready: sum('ready'), groups: rows } };
}

type Status = NonNullable<FederatedLearningJob['status']>;

/** The job's status from its pods and what its participants report. */
export function jobStatus(at: {
  readonly job: FederatedLearningJob;
  readonly pods: readonly KubeObject[];
  readonly slots: readonly Slot[];
  readonly workers: number;
  readonly records: Records;
  readonly nowMs: number;
}): FederatedLearningJob['status'] & { conditions: Condition[] } {
  const { job, pods, workers, records, nowMs } = at;
  const phase = phaseFrom(pods, workers);
  const count = (p: string): number => pods.filter((pod) => phaseOf(pod) === p).length;
  const ended = phase === 'Succeeded' || phase === 'Failed';
  const { placement: before, ...status } = job.status ?? {};
  const kept = job.spec.placement?.groups && before ? { placement: before } : {};
  return {
    ...status,
    ...kept,
    ...federationFigures(job, pods, records),
    ...placementOf(at),
    conditions: appendCondition(
      job.status?.conditions,
      conditionFor(phase, pods, { workers, waiting: waitingReason(job, records) }),
      nowMs,
    ),
    phase,
    startTime: job.status?.startTime ?? rfc3339(nowMs),
    ...(ended ? { completionTime: job.status?.completionTime ?? rfc3339(nowMs) } : {}),
    active: count('Running') + count('Pending'),
    succeeded: count('Succeeded'),
    failed: count('Failed'),
    ...(job.metadata.generation === undefined
      ? {}
      : { observedGeneration: job.metadata.generation }),
  };
}
