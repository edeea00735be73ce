import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { fromNode, isJsonObject, messageOf, ShoalError } from '@shoal/core';
import { type Document, isNode, LineCounter, parseDocument } from 'yaml';
import { suggestion } from './nearest.ts';

export type Json = null | boolean | number | string | readonly Json[] | JsonMap;
export interface JsonMap {
  readonly [key: string]: Json;
}

/** A value as people write it. */
export function textOf(value: Json | undefined): string {
  if (value === undefined) return '';
  return typeof value === 'string' ? value : JSON.stringify(value);
}

export type Path = readonly (string | number)[];

const MAX_BYTES = 1024 * 1024;

/** A YAML file: its value, and the line of each part of it. */
export class ConfigFile {
  readonly path: string;
  readonly value: Json;
  readonly #document: Document;
  readonly #lines: LineCounter;

  private constructor(path: string, document: Document, lines: LineCounter) {
    this.path = path;
    this.#document = document;
    this.#lines = lines;
    try {
      this.value = document.toJS({ maxAliasCount: 100 }) as Json;
    } catch (error) {
      throw new ShoalError('invalid_argument', `${path}: ${messageOf(error)}`, { cause: error });
    }
  }

  /** @throws ShoalError `not_found`, or `invalid_argument` naming file and line of what is no YAML. */
  static read(path: string): ConfigFile {
    let text: string;
    try {
      text = readFileSync(path, 'utf8');
    } catch (error) {
      throw fromNode(error, `reading ${path}`);
    }
    return ConfigFile.parse(path, text);
  }

  static parse(path: string, text: string): ConfigFile {
    if (text.length > MAX_BYTES)
      throw new ShoalError('invalid_argument', `${path} is larger than 1 MiB: no configuration`);
    const lines = new LineCounter();
    const document = parseDocument(text, { lineCounter: lines, uniqueKeys: true, merge: true });
    const [broken] = document.errors;
    if (broken) {
      const { line } = lines.linePos(broken.pos[0]);
      const [what = ''] = broken.message.split('\n', 1);
      throw new ShoalError('invalid_argument', `${path}:${line}: ${what}`);
    }
    return new ConfigFile(path, document, lines);
  }

  /** Line of a part, or of the nearest thing around it that is in the file. */
  lineOf(path: Path): number {
    for (let length = path.length; length >= 0; length--) {
      const node: unknown =
        length === 0 ? this.#document.contents : this.#document.getIn(path.slice(0, length), true);
      if (isNode(node) && node.range) return this.#lines.linePos(node.range[0]).line;
    }
    return 1;
  }
}

function written(path: Path): string {
  return path.reduce<string>(
    (text, part) =>
      typeof part === 'number' ? `${text}[${part}]` : text === '' ? part : `${text}.${part}`,
    '',
  );
}

function kindOf(value: Json | undefined): string {
  if (value === null || value === undefined) return 'nothing';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'a map' : `${typeof value} ${JSON.stringify(value)}`;
}

/** A part of a configuration, read with checks; every complaint names file, line and key. */
export class ConfigNode {
  readonly file: ConfigFile;
  readonly path: Path;
  readonly value: Json;

  constructor(file: ConfigFile, value: Json = file.value, path: Path = []) {
    this.file = file;
    this.value = value;
    this.path = path;
  }

  /** @throws ShoalError `invalid_argument` always. */
  fail(what: string, at: Path = this.path): never {
    const where = written(at);
    throw new ShoalError(
      'invalid_argument',
      `${this.file.path}:${this.file.lineOf(at)}: ${where === '' ? '' : `${where}: `}${what}`,
    );
  }

  /** The map here; keys that nobody knows are refused. */
  map(known: readonly string[]): JsonMap {
    const map = this.anyMap();
    const stranger = Object.keys(map).find((key) => !known.includes(key));
    if (stranger !== undefined)
      this.fail(`unknown key "${stranger}"${suggestion(stranger, known)}`, [
        ...this.path,
        stranger,
      ]);
    return map;
  }

  /** The map here, whatever its keys. */
  anyMap(): JsonMap {
    if (isJsonObject(this.value)) return this.value as JsonMap;
    return this.fail(`expected a map, got ${kindOf(this.value)}`);
  }

  at(key: string | number): ConfigNode {
    const value = (this.value as Readonly<Record<string | number, Json | undefined>> | null)?.[key];
    return new ConfigNode(this.file, value ?? null, [...this.path, key]);
  }

  get isAbsent(): boolean {
    return this.value === null;
  }

  text(fallback?: string): string {
    if (this.isAbsent && fallback !== undefined) return fallback;
    if (typeof this.value === 'string' && this.value !== '') return this.value;
    return this.fail(`expected a text, got ${kindOf(this.value)}`);
  }

  number(limits: { min: number; max: number; whole?: boolean }, fallback?: number): number {
    if (this.isAbsent && fallback !== undefined) return fallback;
    const { min, max, whole = false } = limits;
    const { value } = this;
    if (typeof value === 'number' && value >= min && value <= max)
      if (!whole || Number.isInteger(value)) return value;
    return this.fail(
      `expected a ${whole ? 'whole number' : 'number'} in [${min}, ${max}], got ${kindOf(value)}`,
    );
  }

  flag(fallback: boolean): boolean {
    if (this.isAbsent) return fallback;
    if (typeof this.value === 'boolean') return this.value;
    return this.fail(`expected true or false, got ${kindOf(this.value)}`);
  }

  choice<T extends string>(choices: readonly T[], fallback?: T): T {
    if (this.isAbsent && fallback !== undefined) return fallback;
    const found = choices.find((c) => c === this.value);
    if (found !== undefined) return found;
    const word = typeof this.value === 'string' ? this.value : '';
    return this.fail(`got ${kindOf(this.value)}${suggestion(word, choices)}`);
  }

  list(fallback?: readonly Json[]): ConfigNode[] {
    if (this.isAbsent && fallback !== undefined) return [];
    if (!Array.isArray(this.value)) return this.fail(`expected a list, got ${kindOf(this.value)}`);
    return this.value.map((_, i) => this.at(i));
  }

  /** A path, seen from the folder of the file. */
  filePath(folder: string): string {
    return resolve(folder, this.text());
  }
}
