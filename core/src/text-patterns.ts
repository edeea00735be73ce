/** How Kubernetes checks text: patterns of Go's RE2, formats, lengths in characters. */

const DATE_TIME = /^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})$/;

const MAX_KEPT = 1_000;
const regExps = new Map<string, RegExp>();
const POSIX: Readonly<Record<string, string>> = {
  alnum: 'A-Za-z0-9',
  alpha: 'A-Za-z',
  digit: '0-9',
  lower: 'a-z',
  upper: 'A-Z',
  space: '\\s',
  word: '\\w',
  xdigit: '0-9A-Fa-f',
};

/**
 * A pattern as Kubernetes writes it (Go's RE2) as a regular expression of this language: leading
 * flags, named groups, POSIX classes, `\z`; escapes that the strict form refuses.
 *
 * @throws SyntaxError for what cannot be read here.
 */
export function toRegExp(pattern: string): RegExp {
  let known = regExps.get(pattern);
  if (known) return known;
  const flags = /^\(\?([ism]+)\)/.exec(pattern);
  const source = pattern
    .slice(flags?.[0].length ?? 0)
    .replaceAll('(?P<', '(?<')
    .replaceAll('\\z', '$')
    .replaceAll('\\A', '^')
    .replaceAll(/\[:(\w+):\]/g, (whole, name: string) => POSIX[name] ?? whole);
  try {
    known = new RegExp(source, `u${flags?.[1] ?? ''}`);
  } catch {
    known = new RegExp(source, flags?.[1] ?? '');
  }
  // Rules may make patterns of what objects say: those must not pile up.
  if (regExps.size >= MAX_KEPT) regExps.clear();
  regExps.set(pattern, known);
  return known;
}

/** Formats of text that are checked; any other says nothing, as with a real API server. */
export const FORMATS: Readonly<Record<string, (text: string) => boolean>> = {
  'date-time': (text) => DATE_TIME.test(text),
  date: (text) => /^\d{4}-\d{2}-\d{2}$/.test(text) && !Number.isNaN(Date.parse(text)),
  byte: (text) => /^[A-Za-z0-9+/]*={0,2}$/.test(text) && text.length % 4 === 0,
  email: (text) => /^[^\s@]+@[^\s@]+$/.test(text),
  ipv4: (text) => /^((25[0-5]|2[0-4]\d|1?\d?\d)(\.|$)){4}(?<!\.)$/.test(text),
  ipv6: (text) => text.includes(':') && URL.canParse(`http://[${text}]`),
  uri: (text) => text.startsWith('/') || URL.canParse(text),
  uuid: (text) => /^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$/i.test(text),
  duration: (text) => /^([+-]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))+$|^0$/.test(text),
};

/** Characters as Unicode counts them. */
export function codePoints(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}
