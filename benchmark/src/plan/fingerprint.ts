import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative, resolve } from 'node:path';
import { fromNode } from '@shoal/core';

/** What `import`, `require` and `export … from` name, and files a module finds beside itself. */
const NAMED =
  /\b(?:from|import|require)\s*\(?\s*(['"`])([^'"`\n]+)\1|\bnew\s+URL\(\s*(['"`])([^'"`\n]+)\3\s*,\s*import\.meta\.url/g;

function read(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw fromNode(error, `reading ${path}`);
  }
}

/** A file of code and every file it imports by a relative path, in the order they are met. */
function reached(path: string, seen: Map<string, Buffer>): void {
  if (seen.has(path)) return;
  const bytes = read(path);
  seen.set(path, bytes);
  if (!/\.[cm]?[jt]s$/.test(path)) return;
  for (const [, , imported, , beside] of bytes.toString('utf8').matchAll(NAMED)) {
    const name = imported ?? beside ?? '';
    const file = resolve(dirname(path), name);
    if (name.startsWith('.') && statSync(file, { throwIfNoEntry: false })?.isFile())
      reached(file, seen);
  }
}

/** Hash of files of code with everything they import from beside them. */
export function codeDigest(paths: readonly string[]): string {
  const hash = createHash('sha256');
  const seen = new Map<string, Buffer>();
  for (const path of paths) reached(path, seen);
  for (const bytes of seen.values()) hash.update(`${bytes.length}\n`).update(bytes);
  return hash.digest('hex');
}

function filesUnder(path: string): string[] {
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return [path];
  return readdirSync(path)
    .toSorted()
    .flatMap((name) => filesUnder(join(path, name)));
}

/** Files a `.txt` index lists, with paths seen from its folder; other words of a line are labels. */
function listedIn(path: string): string[] {
  if (!path.endsWith('.txt')) return [];
  const lines = read(path).toString('utf8').split(/\r?\n/);
  return lines.flatMap((line) => {
    const named = resolve(dirname(path), line.trim().replace(/[\s,]+\S+$/, ''));
    return line.trim() !== '' && statSync(named, { throwIfNoEntry: false })?.isFile()
      ? [named]
      : [];
  });
}

/** Hash of data: files, folders with everything in them, and what indexes list. */
export function dataDigest(paths: readonly string[]): string {
  const hash = createHash('sha256');
  const put = (name: string, file: string): void => {
    const bytes = read(file);
    hash.update(`${name.length} ${name} ${bytes.length}\n`).update(bytes);
  };
  for (const [i, path] of paths.entries()) {
    for (const file of filesUnder(path)) put(`${i}${file.slice(path.length)}`, file);
    for (const [k, file] of listedIn(path).entries()) put(`${i} listed ${k}`, file);
  }
  return hash.digest('hex');
}

/** Packages whose code decides what a case computes. */
const PACKAGES = ['core', 'training', 'lib', 'datasets', 'workers', 'benchmark'] as const;

/**
 * Whether a case may run through a file of a package; how results are shown and ranked is none of its
 * business.
 *
 * @param file Seen from the package: where that lies does not matter.
 */
function isComputing(file: string): boolean {
  return (
    file.endsWith('.ts') && !/\.test\.ts$|(^|\/)(report|rank|runs|suites|test|bench)\//.test(file)
  );
}

/** Hash of the code that computes, of packages that lie in some folders. */
export function codeOfFolders(roots: readonly string[]): string {
  const hash = createHash('sha256');
  for (const root of roots)
    for (const file of filesUnder(root))
      if (isComputing(relative(root, file))) hash.update(read(file));
  return hash.digest('hex');
}

let framework: string | undefined;

/** Hash of Shoal's own code and of the runtime's version: results of another are not these. */
export function frameworkDigest(): string {
  if (framework !== undefined) return framework;
  const require = createRequire(import.meta.url);
  const roots = PACKAGES.map((name) =>
    name === 'benchmark'
      ? join(import.meta.dirname, '..')
      : dirname(require.resolve(`@shoal/${name}`)),
  );
  const runtime = JSON.parse(
    read(require.resolve('onnxruntime-node/package.json')).toString('utf8'),
  ) as { version: string };
  framework = createHash('sha256')
    .update(codeOfFolders(roots))
    .update(runtime.version)
    .digest('hex');
  return framework;
}
