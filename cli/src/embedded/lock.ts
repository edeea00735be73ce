import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { errnoOf, fromNode, ShoalError } from '@shoal/core';
import type { ClusterState, Layout } from './layout.ts';

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errnoOf(error) === 'EPERM';
  }
}

function readJson<T>(file: string): T | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as T;
  } catch {
    return undefined;
  }
}

/** The process that holds the folder, if it is still there. */
export function holderOf(layout: Layout): number | undefined {
  const pid = readJson<{ pid: number }>(layout.lockFile)?.pid;
  return pid !== undefined && alive(pid) ? pid : undefined;
}

/**
 * Takes the folder for this process.
 *
 * @returns A function that gives it back.
 * @throws ShoalError `failed_precondition` when a live process holds it.
 */
export function takeLock(layout: Layout): () => void {
  mkdirSync(dirname(layout.lockFile), { recursive: true });
  const write = (): void =>
    writeFileSync(layout.lockFile, JSON.stringify({ pid: process.pid }), { flag: 'wx' });
  try {
    write();
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw fromNode(error, `writing ${layout.lockFile}`);
    const holder = holderOf(layout);
    if (holder !== undefined) {
      throw new ShoalError(
        'failed_precondition',
        `a cluster is already running in ${layout.root} (process ${holder}). See it with: shoal status. End it with: shoal down`,
      );
    }
    rmSync(layout.lockFile, { force: true });
    write();
  }
  return () => rmSync(layout.lockFile, { force: true });
}

/** State of the cluster that runs in a folder; undefined when none does. */
export function runningState(layout: Layout): ClusterState | undefined {
  const state = readJson<ClusterState>(layout.stateFile);
  return state && holderOf(layout) === state.pid ? state : undefined;
}

/** @throws ShoalError `failed_precondition` saying how to start one. */
export function requireRunning(layout: Layout): ClusterState {
  const state = runningState(layout);
  if (state) return state;
  throw new ShoalError(
    'failed_precondition',
    `no cluster is running in ${layout.root}. Start one with: shoal up`,
  );
}
