import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { PLANTED_BUGS } from '../simulation/planted-bugs.ts';
import type { Outcome } from './outcome.ts';

const MAIN = join(import.meta.dirname, '../simulation/main.ts');
const SEEDS = 2_000;
/** Seeds after which a planted bug that was not found counts as missed. */
const PATIENCE = 1_500;
/** Where a search that takes long begins: shortly before the seed that finds it. */
const FROM: Readonly<Record<string, number>> = {
  'what an edge refused is told once': 650,
  'the loop of the link ends at its first error (F20)': 260,
  'a record that was lost on the way is passed over': 110,
  'a half-open connection is never noticed (F5)': 70,
};

/** One process, so that the tests beside it have the other core. */
function simulate(args: readonly string[]): Promise<{ code: number | null; output: string }> {
  const child = spawn(process.execPath, [MAIN, '--quiet', '--workers', '1', ...args]);
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, output })));
}

/** 2,000 seeds of EdgeLink, and every planted bug found. */
export async function simulation(): Promise<Outcome[]> {
  const clean = await simulate(['--seeds', String(SEEDS)]);
  const outcomes: Outcome[] = [
    {
      name: `${SEEDS} simulated runs of EdgeLink keep all promises`,
      result: clean.code === 0 ? 'passed' : 'failed',
      detail: clean.output.trim(),
    },
  ];
  for (const bug of Object.keys(PLANTED_BUGS)) {
    const { output } = await simulate([
      '--seeds',
      String(PATIENCE),
      '--from',
      String(FROM[bug] ?? 1),
      '--plant',
      bug,
    ]);
    const found = /^seed \d+: P\d.*$/m.exec(output)?.[0];
    outcomes.push({
      name: `the simulation finds: ${bug}`,
      result: found === undefined ? 'failed' : 'passed',
      detail: found ?? output.trim(),
    });
  }
  return outcomes;
}
