import { join } from 'node:path';
import { PLANTED_BUGS } from '../simulation/planted-bugs.ts';
import { type Outcome, run } from './outcome.ts';

const MAIN = join(import.meta.dirname, '../simulation/main.ts');
const SEEDS = 2_000;
/** Seeds after which a planted bug that was not found counts as missed. */
const PATIENCE = 3_000;

/** 2,000 seeds of EdgeLink, and every planted bug found. */
export function simulation(): Outcome[] {
  const args = [MAIN, '--quiet', '--seeds', String(SEEDS)];
  const clean = run(process.execPath, args, { timeoutMs: 600_000 });
  const outcomes: Outcome[] = [
    {
      name: `${SEEDS} simulated runs of EdgeLink keep all promises`,
      result: clean.code === 0 ? 'passed' : 'failed',
      detail: `${clean.stdout}${clean.stderr}`.trim(),
    },
  ];
  for (const bug of Object.keys(PLANTED_BUGS)) {
    const planted = [MAIN, '--quiet', '--seeds', String(PATIENCE), '--plant', bug];
    const { stdout, stderr } = run(process.execPath, planted, { timeoutMs: 300_000 });
    const found = /^seed \d+: P\d.*$/m.exec(stdout)?.[0];
    outcomes.push({
      name: `the simulation finds: ${bug}`,
      result: found === undefined ? 'failed' : 'passed',
      detail: found ?? `${stdout}${stderr}`.trim(),
    });
  }
  return outcomes;
}
