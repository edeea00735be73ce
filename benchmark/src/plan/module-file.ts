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

/** Longest time a module may take to load. */
const LOAD_MS = 60_000;

/** Imports a file that may be anything: one that never ends loading, or ends the process, is named. */
async function loaded(path: string, name: string): Promise<Readonly<Record<string, unknown>>> {
  const guard = (): void => {
    process.exitCode = 70;
    process.stderr.write(`module "${name}": ${path} ended the process while it was loaded\n`);
  };
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`it was not loaded after ${LOAD_MS / 1000} s`)),
      LOAD_MS,
    );
  });
  process.once('exit', guard);
  try {
    const found: unknown = await Promise.race([import(pathToFileURL(path).href), late]);
    return found as Readonly<Record<string, unknown>>;
  } finally {
    clearTimeout(timer);
    process.off('exit', guard);
  }
}

function camelCase(name: string): string {
  return name.replace(/[-_ ]+(.)/g, (_, c: string) => c.toUpperCase());
}

/**
 * Loads a file of the user's: its export of that name, or its default export.
 *
 * @throws ShoalError `not_found` for a file that is not there, `invalid_argument` for one that does
 *   not load or exports no function.
 */
export async function checkModule(path: string, name: string): Promise<LoadedModule> {
  if (path.endsWith('.py'))
    throw new ShoalError(
      'invalid_argument',
      `module "${name}": ${path} is Python; a module here is a TypeScript or JavaScript file that exports a function (see docs/guides/benchmarks.md)`,
    );
  if (!existsSync(path))
    throw new ShoalError('not_found', `module "${name}": there is no file ${path}`);
  let exported: Readonly<Record<string, unknown>>;
  try {
    exported = await loaded(path, name);
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
  const { create } = await checkModule(module.url, module.name);
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
