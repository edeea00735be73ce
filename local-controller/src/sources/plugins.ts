import { pathToFileURL } from 'node:url';
import { isJsonObject, messageOf, ShoalError } from '@shoal/core';
import type { SourceFactory } from './source.ts';

/** What a dataset tells a source of the node’s own. */
export interface PluginOptions {
  readonly name: string;
  readonly parameters: Readonly<Record<string, string>>;
}

export type PluginFactories = Readonly<Record<string, SourceFactory<PluginOptions>>>;

/**
 * Loads the sources this node has of its own: a module that exports `sources`, factories by name. Which
 * module that is, the node’s settings say and nobody else: nothing from the cloud is ever loaded as code.
 *
 * @throws ShoalError `invalid_argument` for a module that cannot be loaded or exports something else.
 */
export async function loadPlugins(path: string): Promise<PluginFactories> {
  if (path === '') return {};
  let module: unknown;
  try {
    module = await import(pathToFileURL(path).href);
  } catch (error) {
    throw new ShoalError(
      'invalid_argument',
      `SHOAL_LC_SOURCE_PLUGINS: ${path}: ${messageOf(error)}`,
    );
  }
  const sources = (module as { sources?: unknown }).sources;
  const isFactories = (value: unknown): value is PluginFactories =>
    isJsonObject(value) && Object.values(value).every((f: unknown) => typeof f === 'function');
  if (!isFactories(sources))
    throw new ShoalError(
      'invalid_argument',
      `SHOAL_LC_SOURCE_PLUGINS: ${path} must export "sources": an object of functions by name`,
    );
  return sources;
}
