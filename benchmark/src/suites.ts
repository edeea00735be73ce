import { existsSync, readdirSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { ShoalError } from '@shoal/core';
import { suggestion } from './config/nearest.ts';

const SUITES = join(import.meta.dirname, '../suites');
const FILE = 'benchmarkingjob.yaml';

/** Suites that come with Shoal, in the order of the paradigms. */
export function suiteNames(): string[] {
  const ORDER = ['joint-inference', 'incremental', 'federated', 'lifelong', 'multi-edge'];
  return readdirSync(SUITES, { withFileTypes: true })
    .filter((d) => d.isDirectory())
    .toSorted((a, b) => ORDER.indexOf(a.name) - ORDER.indexOf(b.name))
    .flatMap((paradigm) =>
      readdirSync(join(SUITES, paradigm.name))
        .toSorted()
        .map((name) => `${paradigm.name}/${name}`),
    )
    .filter((name) => existsSync(join(SUITES, name, FILE)));
}

/** The file of a job: a path, or the name of a suite. @throws ShoalError `not_found`. */
export function jobFile(given: string): string {
  const isFile = statSync(given, { throwIfNoEntry: false })?.isFile() ?? false;
  if (/\.ya?ml$/.test(given) || isFile) return resolve(given);
  const path = join(SUITES, given, FILE);
  if (suiteNames().includes(given)) return path;
  throw new ShoalError(
    'not_found',
    `there is no file and no suite "${given}"${suggestion(given, suiteNames())}`,
  );
}
