import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { EVERY_JOB } from '@shoal/api';
import { fromNode, type KeyPair, ShoalError } from '@shoal/core';
import { type ClusterState, layoutOf } from '../embedded/layout.ts';
import { runningState } from '../embedded/lock.ts';

/** Where a service of the cloud is: the folder's cluster, or one named by hand. */
export interface ServiceFlags {
  readonly folder: string;
  readonly server?: string;
  /** File with the shared key. */
  readonly key?: string;
  /** File with the PEM of the authority. */
  readonly authority?: string;
  readonly json?: boolean;
}

export interface ServiceAccess {
  readonly address: string;
  readonly token: string;
  readonly authority?: string;
}

/** What a service of a cluster is called there. */
export interface ServiceOfCluster {
  readonly what: string;
  readonly address: (state: ClusterState) => string;
  readonly keyFile: string;
  readonly token: (key: string, job: string) => string;
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw fromNode(error, `reading ${path}`);
  }
}

/**
 * The operator's way to a service.
 *
 * @throws ShoalError `failed_precondition` when no cluster runs in the folder and no server is named.
 */
export function serviceAccess(flags: ServiceFlags, service: ServiceOfCluster): ServiceAccess {
  const layout = layoutOf(flags.folder);
  const state = runningState(layout);
  const address = flags.server ?? (state && service.address(state));
  if (address === undefined)
    throw new ShoalError(
      'failed_precondition',
      `no cluster runs in ${flags.folder}; start one with "shoal up", or name a ${service.what} with --server and --key`,
    );
  const keyFile = flags.key ?? join(layout.managerDir, service.keyFile);
  const token = service.token(read(keyFile).trim(), EVERY_JOB);
  if (flags.authority !== undefined) return { address, token, authority: read(flags.authority) };
  if (flags.server !== undefined) return { address, token };
  const authority = JSON.parse(read(join(layout.managerDir, 'edge-link-ca.json'))) as KeyPair;
  return { address, token, authority: authority.certificate };
}

/**
 * A job by its full name (`namespace/name/id`) or a part of it that fits one job.
 *
 * @throws ShoalError `not_found` or `invalid_argument` naming the jobs there are.
 */
export function pickJob(jobs: readonly string[], name: string, where: string): string {
  const exact = jobs.filter((j) => j === name);
  const found =
    exact.length > 0
      ? exact
      : jobs.filter((j) => j.split('/').includes(name) || j.startsWith(`${name}/`));
  const [job] = found;
  if (job !== undefined && found.length === 1) return job;
  throw new ShoalError(
    found.length > 1 ? 'invalid_argument' : 'not_found',
    found.length > 1
      ? `"${name}" is the name of ${found.length} jobs: ${found.join(', ')}; give the whole name`
      : `${where} has no job "${name}"; it has: ${jobs.join(', ') || 'none'}`,
  );
}
