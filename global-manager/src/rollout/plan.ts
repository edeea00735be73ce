import { isDeepStrictEqual } from 'node:util';
import type { Rollout, RolloutGroup, RolloutStatus } from '@shoal/api';
import { rfc3339 } from '@shoal/core';

/** How a node stands to the model that is rolled out. */
export interface NodeStanding {
  readonly node: string;
  /** Its group; empty where there are none. */
  readonly group: string;
  readonly state: 'none' | 'pulled' | 'held' | 'updated' | 'failed';
  /** Why it failed. */
  readonly reason?: string;
}

export type RolloutPolicy = Required<Rollout>;

const DEFAULTS: RolloutPolicy = {
  prePull: 'all',
  tolerance: 0,
  deadlineSeconds: 600,
  pauseSeconds: 0,
  hold: 'none',
};

export function rolloutPolicy(rollout: Rollout): RolloutPolicy {
  return { ...DEFAULTS, ...rollout };
}

/** What decides about the next step. */
export interface RolloutInputs {
  readonly policy: RolloutPolicy;
  /** Names of the groups in their order; one empty name where there are none. */
  readonly groups: readonly string[];
  readonly nodes: readonly NodeStanding[];
  readonly nowMs: number;
  /** Since when nodes could say how they stand: a manager that was away judges nobody by that time. */
  readonly listeningSinceMs?: number;
}

/** A rollout that begins now. */
export function beginRollout(
  model: { readonly digest: string; readonly previous: string; readonly round: number },
  { policy, groups, nodes, nowMs }: RolloutInputs,
): RolloutStatus {
  return {
    ...model,
    phase: policy.prePull === 'all' ? 'Pulling' : 'Updating',
    group: 0,
    since: rfc3339(nowMs),
    groups: groups.map((name) => counted(name, nodes)),
  };
}

function counted(name: string, nodes: readonly NodeStanding[]): RolloutGroup {
  const members = nodes.filter((n) => n.group === name);
  const count = (state: NodeStanding['state']): number =>
    members.filter((n) => n.state === state).length;
  const [held, updated, failed] = [count('held'), count('updated'), count('failed')];
  return {
    name,
    nodes: members.length,
    pulled: count('pulled') + held + updated,
    held,
    updated,
    failed,
  };
}

/** Nodes of a group that have settled, and those that have failed at this, late ones among them. */
interface Verdict {
  readonly open: readonly NodeStanding[];
  readonly failed: readonly NodeStanding[];
  readonly isTooMany: boolean;
}

/** Shares are compared as counts: 29 of 100 is 0.29. */
const ROUNDING = 1e-9;

function judge(
  members: readonly NodeStanding[],
  isDone: (node: NodeStanding) => boolean,
  { isLate, tolerance }: { isLate: boolean; tolerance: number },
): Verdict {
  const pending = members.filter((n) => !isDone(n) && n.state !== 'failed');
  // A node that waits for its release is not late.
  const isLateOne = (n: NodeStanding): boolean => isLate && n.state !== 'held';
  const failed = [...members.filter((n) => n.state === 'failed'), ...pending.filter(isLateOne)];
  const tolerated = Math.floor(tolerance * members.length + ROUNDING);
  return {
    open: pending.filter((n) => !isLateOne(n)),
    failed,
    // A group in which nobody serves the model has not got it, whatever is tolerated.
    isTooMany: failed.length > tolerated || (failed.length > 0 && failed.length === members.length),
  };
}

function explain(group: string, members: readonly NodeStanding[], { failed }: Verdict): string {
  const [first] = failed;
  const why = first?.reason ?? 'too late';
  return `${failed.length} of ${members.length} nodes${group === '' ? '' : ` of group ${group}`} failed: ${first?.node}: ${why}`;
}

/**
 * Where a rollout goes from here: fetch, then group by group, each once enough of the one before
 * serve the model; back to the model before when more nodes of a group fail than are tolerated.
 *
 * @returns The same object when nothing has changed.
 */
export function nextRollout(now: RolloutStatus, inputs: RolloutInputs): RolloutStatus {
  const { groups, nodes, nowMs } = inputs;
  const fresh = groups.map((name) => counted(name, nodes));
  // Who was released, or has joined since, gets all of the time.
  const isReleased = now.phase === 'Updating' && held(fresh) < held(now.groups);
  const since = isReleased || grew(fresh, now.groups) ? { since: rfc3339(nowMs) } : {};
  const next = step({ ...now, ...since, groups: fresh, group: positionIn(now, groups) }, inputs);
  return isDeepStrictEqual(next, now) ? now : next;
}

function grew(fresh: readonly RolloutGroup[], before: readonly RolloutGroup[] = []): boolean {
  const known = new Map(before.map((g) => [g.name, g.nodes ?? 0]));
  return fresh.some((g) => (g.nodes ?? 0) > (known.get(g.name) ?? 0));
}

/** The group that is due, where the list of groups has changed: by its name; the first one when it is gone. */
function positionIn(
  { group = 0, groups: before = [] }: RolloutStatus,
  groups: readonly string[],
): number {
  const name = before[group]?.name;
  const at = name === undefined ? group : groups.indexOf(name);
  return Math.max(0, at);
}

function held(groups: readonly RolloutGroup[] | undefined): number {
  return (groups ?? []).reduce((n, g) => n + (g.held ?? 0), 0);
}

function step(now: RolloutStatus, inputs: RolloutInputs): RolloutStatus {
  if (now.phase === 'Pulling') return pulling(now, inputs);
  if (now.phase === 'Updating') return updating(now, inputs);
  if (now.phase !== 'Pausing') return now;
  return heldFor(now, inputs.nowMs) < inputs.policy.pauseSeconds * 1000
    ? now
    : enter(now, 'Updating', (now.group ?? 0) + 1, inputs);
}

function heldFor({ since }: RolloutStatus, nowMs: number): number {
  return nowMs - Date.parse(since ?? '');
}

function isOverdue(now: RolloutStatus, inputs: RolloutInputs): boolean {
  const { nowMs, listeningSinceMs = 0, policy } = inputs;
  const listened = Math.min(heldFor(now, nowMs), nowMs - listeningSinceMs);
  return listened >= policy.deadlineSeconds * 1000;
}

function enter(
  now: RolloutStatus,
  phase: NonNullable<RolloutStatus['phase']>,
  group: number,
  { nowMs }: RolloutInputs,
): RolloutStatus {
  const { message: _done, ...rest } = now;
  return { ...rest, phase, group, since: rfc3339(nowMs) };
}

function pulling(now: RolloutStatus, inputs: RolloutInputs): RolloutStatus {
  const { policy, groups, nodes } = inputs;
  const isLate = isOverdue(now, inputs);
  const waiting: string[] = [];
  for (const group of groups) {
    const members = nodes.filter((n) => n.group === group);
    const has = (n: NodeStanding): boolean => n.state !== 'none';
    const verdict = judge(members, has, { isLate, tolerance: policy.tolerance });
    if (verdict.isTooMany)
      return {
        ...enter(now, 'RolledBack', 0, inputs),
        message: explain(group, members, verdict),
      };
    waiting.push(...verdict.open.map((n) => n.node));
  }
  if (waiting.length === 0) return enter(now, 'Updating', 0, inputs);
  return { ...now, message: `waiting until ${some(waiting)} have the model` };
}

function updating(now: RolloutStatus, inputs: RolloutInputs): RolloutStatus {
  const { policy, groups, nodes } = inputs;
  const at = now.group ?? 0;
  const group = groups[at];
  if (group === undefined) return enter(now, 'Completed', groups.length, inputs);
  const members = nodes.filter((n) => n.group === group);
  const isLate = isOverdue(now, inputs);
  const verdict = judge(members, (n) => n.state === 'updated', {
    isLate,
    tolerance: policy.tolerance,
  });
  if (verdict.isTooMany)
    return { ...enter(now, 'RolledBack', at, inputs), message: explain(group, members, verdict) };
  if (verdict.open.length > 0) {
    const waiting = verdict.open.filter((n) => n.state === 'held').map((n) => n.node);
    const message =
      waiting.length === verdict.open.length
        ? `held at the edge: ${some(waiting)}; shoal edge release lets one go on`
        : `waiting until ${some(verdict.open.map((n) => n.node))} serve the model`;
    return { ...now, message };
  }
  const isLast = at === groups.length - 1;
  if (isLast) return enter(now, 'Completed', at, inputs);
  return policy.pauseSeconds > 0
    ? enter(now, 'Pausing', at, inputs)
    : enter(now, 'Updating', at + 1, inputs);
}

function some(names: readonly string[]): string {
  const shown = names.slice(0, 3).join(', ');
  return names.length > 3 ? `${shown} and ${names.length - 3} more` : shown;
}

/** How a group’s nodes are told of the model: to serve it, to fetch it, or nothing yet. */
export function toldOf(
  { phase, group = 0 }: RolloutStatus,
  policy: RolloutPolicy,
  position: number,
): 'serve' | 'fetch' | 'nothing' {
  if (phase === 'RolledBack') return 'nothing';
  if (phase === 'Completed') return 'serve';
  if (phase !== 'Pulling' && position <= group) return 'serve';
  return policy.prePull === 'all' ? 'fetch' : 'nothing';
}

/** Milliseconds until time alone may change something; undefined when it will not. */
export function lookAgainMs(
  now: RolloutStatus,
  policy: RolloutPolicy,
  at: { readonly nowMs: number; readonly listeningSinceMs?: number },
): number | undefined {
  const { nowMs, listeningSinceMs = 0 } = at;
  const { phase } = now;
  if (phase === 'Completed' || phase === 'RolledBack') return undefined;
  const isPause = phase === 'Pausing';
  const seconds = isPause ? policy.pauseSeconds : policy.deadlineSeconds;
  const passed = isPause
    ? heldFor(now, nowMs)
    : Math.min(heldFor(now, nowMs), nowMs - listeningSinceMs);
  const left = seconds * 1000 - passed;
  return left > 0 ? left + 50 : undefined;
}
