import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { PLANTED_BUGS } from './simulation/planted-bugs.ts';

const MAIN = join(import.meta.dirname, 'simulation/main.ts');

function simulate(...args: string[]): { code: number | null; output: string } {
  const done = spawnSync(process.execPath, [MAIN, '--quiet', ...args], { encoding: 'utf8' });
  return { code: done.status, output: `${done.stdout}${done.stderr}` };
}

test('all promises of EdgeLink hold over 120 seeded runs with faults', () => {
  const { code, output } = simulate('--seeds', '120');
  expect(output).toContain('120 seeds, 0 violations');
  expect(code).toBe(0);
});

test('a seed can be run again, and gives what it gave', () => {
  const once = simulate('--seed', '7').output.replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, '…');
  const again = simulate('--seed', '7').output.replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, '…');
  const story = (text: string): string[] => text.split('\n').slice(0, -2);
  expect(story(again)).toEqual(story(once));
  expect(story(once).length).toBeGreaterThan(50);
});

// All of them are looked for in `npm run test:real`; these are found fast.
test.each([
  'acknowledged before the commit (F4)',
  'a batch and its cursor in separate transactions',
  'a record that comes twice takes effect twice',
  'a delete must have the uid that is here (F3 as it is usually written)',
])('the simulation finds a planted bug: %s', (bug) => {
  expect(PLANTED_BUGS[bug]).toBeDefined();
  const { code, output } = simulate('--seeds', '200', '--plant', bug);
  expect(output).toMatch(/seed \d+: P\d/);
  expect(code).toBe(1);
});
