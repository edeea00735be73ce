import { readFileSync } from 'node:fs';
import { fromNode, isJsonObject, type JsonObject, ShoalError } from '@shoal/core';
import { parseAllDocuments, stringify } from 'yaml';
import { styled } from '../terminal/style.ts';
import { renderTable } from '../terminal/table.ts';
import type { GlobalOptions, Session } from './context.ts';
import { withCluster } from './context.ts';

/** Objects of a YAML file with one or more documents; `-` reads standard input. */
export function readManifest(file: string): JsonObject[] {
  let text: string;
  try {
    text = readFileSync(file === '-' ? 0 : file, 'utf8');
  } catch (error) {
    throw fromNode(error, `reading ${file}`);
  }
  return parseAllDocuments(text).map((document, i) => {
    const [fault] = document.errors;
    if (fault)
      throw new ShoalError('invalid_argument', `${file}, document ${i + 1}: ${fault.message}`);
    const value: unknown = document.toJS();
    if (!isJsonObject(value))
      throw new ShoalError('invalid_argument', `${file}, document ${i + 1}: not an object`);
    return value;
  });
}

export async function applyCommand(file: string, options: GlobalOptions): Promise<void> {
  const objects = readManifest(file);
  await withCluster(options, async ({ resources }) => {
    for (const object of objects) {
      const { kind, what } = await resources.apply(object, options.namespace);
      process.stdout.write(`${kind} ${what}\n`);
    }
  });
}

interface Table {
  readonly columnDefinitions: readonly { readonly name: string; readonly priority: number }[];
  readonly rows: readonly { readonly cells: readonly unknown[] }[];
}

function cellText(cell: unknown): string {
  return typeof cell === 'string' || typeof cell === 'number' ? String(cell) : '';
}

async function printTable(session: Session, path: string): Promise<void> {
  const accept = 'application/json;as=Table;v=v1;g=meta.k8s.io';
  const table = (await session.client.request('GET', path, undefined, { accept })) as Table;
  if (table.rows.length === 0) {
    process.stdout.write('nothing found\n');
    return;
  }
  const shown = table.columnDefinitions
    .map((c, i) => [c, i] as const)
    .filter(([c]) => c.priority === 0);
  const head = shown.map(([c]) => c.name.toUpperCase());
  const body = table.rows.map((r) => shown.map(([, i]) => cellText(r.cells[i])));
  process.stdout.write(`${renderTable([head, ...body])}\n`);
}

export async function getCommand(
  kind: string,
  name: string | undefined,
  options: GlobalOptions & { output?: string; all?: boolean },
): Promise<void> {
  await withCluster(options, async (session) => {
    const resource = await session.resources.find(kind);
    const path = session.resources.path(
      resource,
      options.all ? undefined : options.namespace,
      name,
    );
    if (options.output === undefined) return await printTable(session, path);
    const object = await session.client.request('GET', path);
    process.stdout.write(
      options.output === 'json' ? `${JSON.stringify(object, null, 2)}\n` : stringify(object),
    );
  });
}

export async function describeCommand(
  kind: string,
  name: string,
  options: GlobalOptions,
): Promise<void> {
  await withCluster(options, async (session) => {
    const resource = await session.resources.find(kind);
    const object = (await session.client.request(
      'GET',
      session.resources.path(resource, options.namespace, name),
    )) as JsonObject;
    const metadata = isJsonObject(object['metadata']) ? object['metadata'] : {};
    const { managedFields: _m, ...rest } = metadata;
    process.stdout.write(stringify({ ...object, metadata: rest }));
    const selector = encodeURIComponent(`involvedObject.uid=${String(metadata['uid'])}`);
    const events = await session.resources.find('events');
    process.stdout.write(`\n${styled('bold', 'Events')}\n`);
    await printTable(
      session,
      `${session.resources.path(events, options.namespace)}?fieldSelector=${selector}`,
    );
  });
}

export async function deleteCommand(
  kind: string,
  name: string,
  options: GlobalOptions,
): Promise<void> {
  await withCluster(options, async ({ resources }) => {
    const { plural } = await resources.find(kind);
    if (!(await resources.remove(kind, options.namespace, name))) {
      throw new ShoalError(
        'not_found',
        `${plural}/${name} does not exist in namespace ${options.namespace}`,
      );
    }
    process.stdout.write(`${plural}/${name} deleted\n`);
  });
}

export async function logsCommand(
  pod: string,
  options: GlobalOptions & {
    container?: string;
    follow?: boolean;
    previous?: boolean;
    tail?: string;
  },
): Promise<void> {
  await withCluster(options, async ({ client }) => {
    const query = new URLSearchParams();
    if (options.container) query.set('container', options.container);
    if (options.follow) query.set('follow', 'true');
    if (options.previous) query.set('previous', 'true');
    if (options.tail) query.set('tailLines', options.tail);
    await client.stream(
      `/api/v1/namespaces/${options.namespace}/pods/${pod}/log?${query}`,
      (chunk) => process.stdout.write(chunk),
    );
  });
}
