import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { compileCacheFolder } from './compile-cache.ts';

const dir = mkdtempSync(join(tmpdir(), 'shoal-compiled-'));
afterAll(() => rmSync(dir, { recursive: true }));

it('is the user’s own, or a folder of ours in the cache', () => {
  expect(compileCacheFolder({ NODE_COMPILE_CACHE: join(dir, 'mine') })).toBe(join(dir, 'mine'));
  const ours = join(dir, 'cache/shoal/compiled');
  expect(compileCacheFolder({ XDG_CACHE_HOME: join(dir, 'cache') })).toBe(ours);
  expect(existsSync(ours)).toBe(true);
});

it('is none where no folder can be made', () => {
  expect(compileCacheFolder({ XDG_CACHE_HOME: '/proc/nowhere' })).toBeUndefined();
  expect(compileCacheFolder({ XDG_CACHE_HOME: '/dev/null/x' })).toBeUndefined();
});

it('is filled by a process that loads our sources', () => {
  const env = { ...process.env, NODE_COMPILE_CACHE: dir, NODE_DISABLE_COMPILE_CACHE: '' };
  const { NODE_DISABLE_COMPILE_CACHE: _off, ...on } = env;
  const file = join(import.meta.dirname, 'index.ts');
  execFileSync(process.execPath, ['-e', `import(${JSON.stringify(file)})`], { env: on });
  expect(readdirSync(dir).length).toBeGreaterThan(0);
});
