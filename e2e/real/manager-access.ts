import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isJsonObject } from '@shoal/core';
import { MANAGER_ACCOUNT, MANAGER_NAMESPACE, MANAGER_RULES } from '@shoal/global-manager';
import type { Outcome } from './outcome.ts';

const ROOT = join(import.meta.dirname, '../..');
/** What the clusters of the tests noted, and the one of the examples. */
const NOTED = join(ROOT, '.cache/requests');
const EXAMPLES = join(ROOT, '.shoal/server/requests.jsonl');
const USER = `system:serviceaccount:${MANAGER_NAMESPACE}:${MANAGER_ACCOUNT}`;
const NAME = 'deploy/rbac: the verbs the manager used, no more and no fewer';

function asked(files: readonly string[]): Set<string> {
  const lines = files.flatMap((f) => readFileSync(f, 'utf8').split('\n'));
  const found = new Set<string>();
  for (const line of lines.filter((l) => l !== '')) {
    const entry: unknown = JSON.parse(line);
    if (isJsonObject(entry) && entry['user'] === USER)
      found.add(`${String(entry['group'])}/${String(entry['resource'])}: ${String(entry['verb'])}`);
  }
  return found;
}

function granted(): Set<string> {
  return new Set(
    MANAGER_RULES.flatMap(({ apiGroups, resources, verbs }) =>
      apiGroups.flatMap((group) =>
        resources.flatMap((resource) => verbs.map((verb) => `${group}/${resource}: ${verb}`)),
      ),
    ),
  );
}

/** Holds the manager's rights against the requests recorded by `npm test` and `npm start`. */
export function managerAccess(): Outcome[] {
  const tests = existsSync(NOTED) ? readdirSync(NOTED).map((f) => join(NOTED, f)) : [];
  const missing = [
    ...(tests.length === 0 ? ['npm test'] : []),
    ...(existsSync(EXAMPLES) ? [] : ['npm start']),
  ];
  if (missing.length > 0) {
    const detail = `nothing was recorded by ${missing.join(' and ')}: run it before this`;
    return [{ name: NAME, result: 'skipped', detail }];
  }
  const used = asked([...tests, EXAMPLES]);
  const rights = granted();
  const few = [...used].filter((r) => !rights.has(r));
  const many = [...rights].filter((r) => !used.has(r));
  if (few.length === 0 && many.length === 0) return [{ name: NAME, result: 'passed' }];
  const detail = `too few: ${few.join(', ') || 'none'}; too many: ${many.join(', ') || 'none'}`;
  return [{ name: NAME, result: 'failed', detail }];
}
