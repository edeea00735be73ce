import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, cpus, platform, release, totalmem } from 'node:os';
import { dirname, resolve } from 'node:path';
import { digestOf } from '@shoal/core';
import { frameworkDigest } from '../plan/fingerprint.ts';

/** Where results come from. */
export interface Provenance {
  readonly startedAt: string;
  /** Hash of where the job's file is: results of two jobs do not mix. */
  readonly job: string;
  readonly shoal: string;
  /** Hash of Shoal's code. */
  readonly code: string;
  readonly node: string;
  readonly onnxRuntime: string;
  readonly system: string;
  readonly processor: string;
  readonly cores: number;
  readonly memoryBytes: number;
  /** Commit of the job's folder, `+` behind it for changes; empty outside a repository. */
  readonly commit: string;
  readonly seeds: readonly number[];
}

function versionOf(name: string): string {
  const require = createRequire(import.meta.url);
  return (JSON.parse(readFileSync(require.resolve(name), 'utf8')) as { version: string }).version;
}

function commitOf(folder: string): string {
  try {
    const git = (...args: string[]): string =>
      execFileSync('git', ['-C', folder, ...args], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      }).trim();
    return `${git('rev-parse', '--short=12', 'HEAD')}${git('status', '--porcelain', '.') === '' ? '' : '+'}`;
  } catch {
    return '';
  }
}

/** Which file a job is. */
export function jobDigest(jobFile: string): string {
  return digestOf(resolve(jobFile)).slice('sha256:'.length, 'sha256:'.length + 16);
}

/** This machine, these versions, now. */
export function provenanceOf(jobFile: string, seeds: readonly number[]): Provenance {
  return {
    startedAt: new Date().toISOString(),
    job: jobDigest(jobFile),
    shoal: versionOf('../../package.json'),
    code: frameworkDigest().slice(0, 16),
    node: process.version,
    onnxRuntime: versionOf('onnxruntime-node/package.json'),
    system: `${platform()} ${release()}`,
    processor: cpus()[0]?.model ?? 'unknown',
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    commit: commitOf(dirname(jobFile)),
    seeds,
  };
}
