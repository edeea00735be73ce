import { existsSync, mkdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';

/** Makes a folder and those above it, one by one: `recursive` never ends where the system makes none (/proc). */
function made(folder: string): boolean {
  if (existsSync(folder)) return true;
  if (dirname(folder) === folder || !made(dirname(folder))) return false;
  try {
    mkdirSync(folder, { mode: 0o700 });
    return true;
  } catch {
    // Somebody else may have made it just now.
    return existsSync(folder);
  }
}

/**
 * Where Node keeps what it made of our sources (`NODE_COMPILE_CACHE`): a process that finds it starts in half
 * the time and holds some 30 MB less, as it need not load the compiler. `NODE_DISABLE_COMPILE_CACHE` turns it off.
 *
 * @returns A folder that is there; undefined where none can be made, and everything works without.
 */
export function compileCacheFolder(
  source: Readonly<Record<string, string | undefined>> = process.env,
): string | undefined {
  const given = source['NODE_COMPILE_CACHE'] ?? '';
  const folder =
    given === ''
      ? join(source['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'shoal', 'compiled')
      : given;
  return made(folder) ? folder : undefined;
}

/** The same as a variable for a process that is started. */
export function compileCacheVariable(): { readonly NODE_COMPILE_CACHE?: string } {
  const folder = compileCacheFolder();
  return folder === undefined ? {} : { NODE_COMPILE_CACHE: folder };
}
