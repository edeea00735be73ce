import { ShoalError } from './errors.ts';

/** One setting of a process: where it is read, how it is checked, and what a person should know. */
export interface Setting<T> {
  readonly parse: (text: string) => T;
  /** Used when the variable is unset or empty; a setting without default is required. */
  readonly default?: T;
  readonly help: string;
}

/** The settings of a configuration type: one per field, under the variable's own name. */
export type SettingTable<C> = { readonly [K in keyof C]: Setting<C[K]> };

/** Throws inside a parser to say what was expected. */
function expected(what: string): never {
  throw new TypeError(`expected ${what}`);
}

/** A text setting. */
export function text(help: string, fallback?: string): Setting<string> {
  return { parse: (t) => t, help, ...(fallback === undefined ? {} : { default: fallback }) };
}

/** A whole number in [min, max]. */
export function integer(
  help: string,
  range: { min: number; max: number },
  fallback?: number,
): Setting<number> {
  const parse = (t: string): number => {
    const n = Number(t);
    return Number.isInteger(n) && n >= range.min && n <= range.max
      ? n
      : expected(`a whole number from ${range.min} to ${range.max}`);
  };
  return { parse, help, ...(fallback === undefined ? {} : { default: fallback }) };
}

/** A finite number in [min, max]. */
export function real(
  help: string,
  range: { min: number; max: number },
  fallback?: number,
): Setting<number> {
  const parse = (t: string): number => {
    const n = Number(t);
    return t.trim() !== '' && Number.isFinite(n) && n >= range.min && n <= range.max
      ? n
      : expected(`a number from ${range.min} to ${range.max}`);
  };
  return { parse, help, ...(fallback === undefined ? {} : { default: fallback }) };
}

/** `true` or `false`. */
export function flag(help: string, fallback: boolean): Setting<boolean> {
  const parse = (t: string): boolean =>
    t === 'true' ? true : t === 'false' ? false : expected('true or false');
  return { parse, help, default: fallback };
}

/** One of a fixed set of words. */
export function choice<const W extends string>(
  help: string,
  words: readonly W[],
  fallback?: W,
): Setting<W> {
  const parse = (t: string): W =>
    words.find((w) => w === t) ?? expected(`one of ${words.join(', ')}`);
  return { parse, help, ...(fallback === undefined ? {} : { default: fallback }) };
}

/**
 * Reads a process's settings once into a frozen object; lists all faults together.
 *
 * @param source Usually `process.env`. Keys are the table's keys.
 * @param options.prefix Variables that begin with it and are not in the table are faults
 *   (a misspelt setting must not be silent).
 * @throws ShoalError `invalid_argument` naming every missing, malformed and unknown variable.
 */
export function readConfig<C extends object>(
  table: SettingTable<C>,
  source: Readonly<Record<string, string | undefined>>,
  options: { prefix?: string } = {},
): Readonly<C> {
  const faults: string[] = [];
  const entries: [string, unknown][] = [];
  for (const [name, setting] of Object.entries<Setting<unknown>>(table)) {
    const raw = source[name];
    try {
      if (raw !== undefined && raw !== '') entries.push([name, setting.parse(raw)]);
      else if ('default' in setting) entries.push([name, setting.default]);
      else faults.push(`${name} is required: ${setting.help}`);
    } catch (error) {
      faults.push(`${name}=${raw}: ${error instanceof Error ? error.message : error}`);
    }
  }
  const { prefix } = options;
  if (prefix !== undefined) {
    for (const name of Object.keys(source)) {
      if (name.startsWith(prefix) && !(name in table)) faults.push(`${name} is not a setting`);
    }
  }
  if (faults.length > 0) {
    throw new ShoalError('invalid_argument', `bad configuration:\n  ${faults.join('\n  ')}`);
  }
  return Object.freeze(Object.fromEntries(entries)) as Readonly<C>;
}
