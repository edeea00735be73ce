import type { FiguresEntry } from '@shoal/api';
import { messageOf, ShoalError } from '@shoal/core';
import { layoutOf } from '../embedded/layout.ts';
import { requireRunning } from '../embedded/lock.ts';
import { renderTable } from '../terminal/table.ts';
import type { GlobalOptions } from './context.ts';

export type FiguresFlags = GlobalOptions & { readonly manager?: string; readonly json?: boolean };

/** Shows the history of a node’s figures as the global manager keeps it. */
export async function nodeFiguresCommand(node: string, flags: FiguresFlags): Promise<void> {
  const manager = flags.manager ?? requireRunning(layoutOf(flags.folder)).managerUrl;
  let entries: readonly FiguresEntry[];
  try {
    const response = await fetch(`${manager}/figures/${encodeURIComponent(node)}`);
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    entries = (await response.json()) as FiguresEntry[];
  } catch (error) {
    throw new ShoalError(
      'unavailable',
      `the global manager does not answer at ${manager}: ${messageOf(error)}`,
    );
  }
  if (flags.json) return void process.stdout.write(`${JSON.stringify(entries)}\n`);
  const rows = entries.flatMap(({ at, figures }) =>
    Object.entries(figures).map(([key, numbers]) => [
      at,
      key,
      Object.entries(numbers)
        .map(([name, value]) => `${name}=${value}`)
        .join(' '),
    ]),
  );
  process.stdout.write(
    rows.length > 0
      ? `${renderTable([['TIME', 'REPORT', 'FIGURES'], ...rows])}\n`
      : `nothing has been noted of ${node} yet; nodes note once a minute what has changed\n`,
  );
}
