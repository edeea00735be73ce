import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { checkModule, loadingFault } from './module-file.ts';

const folder = mkdtempSync(join(tmpdir(), 'shoal-module-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

test('a file that never ends loading, or ends the process, does so in a process of its own', async () => {
  const endless = file('endless.ts', 'for (;;);\nexport default (): void => undefined;\n');
  expect(await loadingFault(endless, 1_000)).toBe('it was not loaded after 1 s');
  await expect(checkModule(endless, 'endless')).rejects.toThrow(
    /module "endless" does not load: .*endless\.ts: it was not loaded after 1 s/,
  );
  const waiting = file('waiting.ts', 'await new Promise(() => setInterval(() => 0, 1000));\n');
  expect(await loadingFault(waiting, 1_000)).toBe('it was not loaded after 1 s');
  const idle = file('idle.ts', 'await new Promise(() => undefined);\n');
  await expect(checkModule(idle, 'idle')).rejects.toThrow(/waits for something that never comes/);
  const leaving = file('leaving.ts', 'process.exit(0);\n');
  await expect(checkModule(leaving, 'leaving')).rejects.toThrow(/ends the process while it is/);
  const busy = file(
    'busy.ts',
    'setInterval(() => 0, 1000).unref(); export const busy = (): number => 4;\n',
  );
  expect((await checkModule(busy, 'busy')).create({}, {} as never)).toBe(4);
  const broken = file('broken.ts', 'throw new Error("no such weights");\n');
  await expect(checkModule(broken, 'broken')).rejects.toThrow(/no such weights/);
});
