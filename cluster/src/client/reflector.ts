import { type Clock, isShoalError, type Logger, type Random, superviseLoop } from '@shoal/core';
import { type ApiObject, digString } from '../object.ts';
import type { ApiClient } from './api-client.ts';

export interface ReflectorOptions {
  readonly client: ApiClient;
  /** Collection URL, with selectors, e.g. `/api/v1/pods?fieldSelector=spec.nodeName%3Dedge-1`. */
  readonly path: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly signal: AbortSignal;
  /** Called with all objects after every (re)list. */
  readonly onList: (objects: ApiObject[]) => void;
  readonly onChange: (type: 'ADDED' | 'MODIFIED' | 'DELETED', object: ApiObject) => void;
}

/** Keeps a view of a collection: list, then watch, again after every failure, until aborted. */
export async function reflect(options: ReflectorOptions): Promise<void> {
  const { client, path, signal } = options;
  const separator = path.includes('?') ? '&' : '?';
  const body = async (): Promise<void> => {
    const list = (await client.request('GET', path)) as {
      items: ApiObject[];
      metadata: { resourceVersion: string };
    };
    options.onList(list.items);
    let version = list.metadata.resourceVersion;
    while (!signal.aborted) {
      const url = `${path}${separator}watch=true&allowWatchBookmarks=true&resourceVersion=${version}`;
      try {
        await client.watch(
          url,
          (event) => {
            version = digString(event.object, 'metadata', 'resourceVersion') ?? version;
            if (event.type !== 'BOOKMARK' && event.type !== 'ERROR')
              options.onChange(event.type, event.object);
          },
          signal,
        );
      } catch (error) {
        if (isShoalError(error) && error.code === 'out_of_range') return;
        throw error;
      }
    }
  };
  await superviseLoop(`watch ${path}`, body, options, { baseMs: 200, capMs: 5_000, signal });
}
