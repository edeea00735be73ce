import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fromNode } from '@shoal/core';

/** What `import` and `export … from` name. */
const IMPORTS =
  /\b(?:import|export)\b[^'"();]*?from\s*['"]([^'"]+)['"]|\bimport\s*\(?\s*['"]([^'"]+)['"]/g;

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
  for (const [, from, dynamic] of bytes.toString('utf8').matchAll(IMPORTS)) {
    const name = from ?? dynamic ?? '';
    const file = resolve(dirname(path), name);
    if (name.startsWith('.') && existsSync(file)) reached(file, seen);
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

/** Hash of data: files, or folders with everything in them. */
export function dataDigest(paths: readonly string[]): string {
  const hash = createHash('sha256');
  for (const path of paths)
    for (const file of filesUnder(path)) hash.update(file.slice(path.length)).update(read(file));
  return hash.digest('hex');
}

/** Packages whose code decides what a case computes. */
const PACKAGES = ['core', 'training', 'lib', 'datasets', 'benchmark'] as const;

let framework: string | undefined;

/** Hash of Shoal's own code and of the runtime's version: results of another are not these. */
export function frameworkDigest(): string {
  if (framework !== undefined) return framework;
  const hash = createHash('sha256');
  const require = createRequire(import.meta.url);
  for (const name of PACKAGES) {
    const root =
      name === 'benchmark'
        ? join(import.meta.dirname, '..')
        : dirname(require.resolve(`@shoal/${name}`));
    for (const file of filesUnder(root))
      if (file.endsWith('.ts') && !file.endsWith('.test.ts')) hash.update(read(file));
  }
  const runtime = JSON.parse(
    read(require.resolve('onnxruntime-node/package.json')).toString('utf8'),
  ) as { version: string };
  framework = hash.update(runtime.version).digest('hex');
  return framework;
}
