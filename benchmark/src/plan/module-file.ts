import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { messageOf, ShoalError } from '@shoal/core';
import type { ModuleType } from '../config/algorithm.ts';
import type { JsonMap } from '../config/config-node.ts';
import type { PlannedCase } from './planned-case.ts';
import { fromEnvironment } from './secrets.ts';

/** What a file of the user's exports: a function of its parameters and where it runs. */
export type ModuleFunction = (parameters: JsonMap, context: ModuleContext) => unknown;

/** What a module may lean on, so that two runs of a case are the same. */
export interface ModuleContext {
  /** Seed of the case; anything random must come from it. */
  readonly seed: number;
  /** Threads the case may use: one. */
  readonly threads: number;
  /** Shape of one sample of the case's data. */
  readonly inputShape: readonly number[];
  /** The model the algorithm names as `initial_model_url`. */
  readonly initialModel?: string;
  /** A folder of the case's own; it goes when the case ends. */
  readonly folder: string;
  readonly signal: AbortSignal;
}

export interface LoadedModule {
  readonly create: ModuleFunction;
  /** Files a dataset reads, to notice when they change. */
  readonly sources: (parameters: JsonMap) => readonly string[] | Promise<readonly string[]>;
}

/** Longest time a file may take to load. */
const LOAD_MS = 30_000;
const LOADED = 'shoal: loaded';
/** How Node ends where a module waits and nothing is left to happen. */
const UNSETTLED = 13;
const PROBE = `await import(process.argv[1]); console.log(${JSON.stringify(LOADED)})`;

/** How loading each file ended in a process of its own: undefined when it was well. */
const probes = new Map<string, Promise<string | undefined>>();

/**
 * Imports a file in a process of its own first: one that never comes back from loading, or ends the process,
 * would take who imports it along.
 *
 * @returns What went wrong; nothing for one that throws, which its importer is told as well.
 */
export function loadingFault(path: string, limitMs: number = LOAD_MS): Promise<string | undefined> {
  const known = probes.get(path) ?? probe(path, limitMs);
  probes.set(path, known);
  return known;
}

async function probe(path: string, limitMs: number): Promise<string | undefined> {
  const args = ['--input-type=module', '-e', PROBE, pathToFileURL(path).href];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  child.stdout.on('data', (text: Buffer) => {
    said = `${said}${text}`.slice(-1_000);
  });
  child.stderr.resume();
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    child.kill('SIGKILL');
  }, limitMs);
  const code = await new Promise<number | null>((resolve) => {
    child.on('error', () => resolve(null));
    child.on('close', resolve);
    // A file that was loaded may leave timers behind: it is not waited for.
    child.stdout.on('data', () => {
      if (said.includes(LOADED)) child.kill('SIGKILL');
    });
  });
  clearTimeout(timer);
  if (isLate) return `it was not loaded after ${limitMs / 1000} s`;
  // What throws, throws again for who imports it.
  if (said.includes(LOADED) || code === 1) return undefined;
  return code === UNSETTLED
    ? 'it waits for something that never comes'
    : 'it ends the process while it is loaded';
}

function camelCase(name: string): string {
  return name.replace(/[-_ ]+(.)/g, (_, c: string) => c.toUpperCase());
}

/** {@link loadModule}, of a file that may be anything: it is tried in a process of its own first. */
export async function checkModule(path: string, name: string): Promise<LoadedModule> {
  requireModuleFile(path, name);
  const fault = await loadingFault(path);
  if (fault !== undefined)
    throw new ShoalError('invalid_argument', `module "${name}" does not load: ${path}: ${fault}`);
  return await loadModule(path, name);
}

function requireModuleFile(path: string, name: string): void {
  if (path.endsWith('.py'))
    throw new ShoalError(
      'invalid_argument',
      `module "${name}": ${path} is Python; a module here is a TypeScript or JavaScript file that exports a function (see docs/guides/benchmarks.md)`,
    );
  if (!existsSync(path))
    throw new ShoalError('not_found', `module "${name}": there is no file ${path}`);
}

/**
 * Loads a file of the user's: its export of that name, or its default export.
 *
 * @throws ShoalError `not_found` for a file that is not there, `invalid_argument` for one that does
 *   not load or exports no function.
 */
export async function loadModule(path: string, name: string): Promise<LoadedModule> {
  requireModuleFile(path, name);
  let exported: Readonly<Record<string, unknown>>;
  try {
    exported = (await import(pathToFileURL(path).href)) as Readonly<Record<string, unknown>>;
  } catch (error) {
    throw new ShoalError(
      'invalid_argument',
      `module "${name}" does not load: ${path}: ${messageOf(error)}`,
      {
        cause: error,
      },
    );
  }
  const create = [name, camelCase(name), 'default']
    .map((n) => exported[n])
    .find((e) => typeof e === 'function');
  if (typeof create !== 'function')
    throw new ShoalError(
      'invalid_argument',
      `module "${name}": ${path} exports no function ${camelCase(name)} and no default function; it exports: ${Object.keys(exported).join(', ') || 'nothing'}`,
    );
  const sources = exported['sources'];
  return {
    create: create as ModuleFunction,
    sources: typeof sources === 'function' ? (sources as LoadedModule['sources']) : () => [],
  };
}

/**
 * Calls the file that fills a slot of a case.
 *
 * @throws ShoalError when the slot is filled by a name only.
 */
export async function moduleOf<T>(
  { algorithm, seed }: Pick<PlannedCase, 'algorithm' | 'seed'>,
  type: ModuleType,
  at: Pick<ModuleContext, 'folder' | 'signal' | 'inputShape'> & {
    readonly environment?: Readonly<Record<string, string | undefined>>;
  },
): Promise<T> {
  const { environment = process.env, ...context } = at;
  const module = algorithm.modules.find((m) => m.type === type);
  if (module?.url === undefined)
    throw new ShoalError('invalid_argument', `there is no file for ${type}`);
  const { create } = await loadModule(module.url, module.name);
  const parameters = fromEnvironment(module.hyperparameters, environment) as JsonMap;
  const { initialModel } = algorithm;
  const made = await create(parameters, {
    ...context,
    seed,
    threads: 1,
    ...(initialModel === undefined ? {} : { initialModel }),
  });
  return made as T;
}
