import type { ApiObject } from '../object.ts';
import { dig, scalarText } from '../object.ts';
import { StatusError } from './status-error.ts';

export type Predicate = (object: ApiObject) => boolean;

/** Splits on commas that are not inside parentheses. */
function clauses(text: string): string[] {
  return text
    .split(/,(?![^(]*\))/)
    .map((c) => c.trim())
    .filter((c) => c !== '');
}

const LABEL_VALUE = /^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$/;

function labelClause(clause: string): (labels: Record<string, string>) => boolean {
  const set = /^(\S+)\s+(in|notin)\s*\(([^)]*)\)$/.exec(clause);
  if (set) {
    const [, key = '', operator, list = ''] = set;
    const values = list.split(',').map((v) => v.trim());
    return operator === 'in'
      ? (labels) => values.includes(labels[key] ?? '') && Object.hasOwn(labels, key)
      : (labels) => !Object.hasOwn(labels, key) || !values.includes(labels[key] ?? '');
  }
  const equality = /^([^=!\s]+)\s*(==|=|!=)\s*(.*)$/.exec(clause);
  if (equality) {
    const [, key = '', operator, value = ''] = equality;
    if (!LABEL_VALUE.test(value.trim()))
      throw new StatusError('BadRequest', `unable to parse requirement: values: ${value}`);
    return operator === '!='
      ? (labels) => labels[key] !== value.trim()
      : (labels) => labels[key] === value.trim();
  }
  if (/^!\s*[^\s=!]+$/.test(clause)) {
    const key = clause.slice(1).trim();
    return (labels) => !Object.hasOwn(labels, key);
  }
  if (/^[^\s=!()]+$/.test(clause)) return (labels) => Object.hasOwn(labels, clause);
  throw new StatusError('BadRequest', `unable to parse requirement: ${clause}`);
}

/** Parses a label selector (`a=b,c in (d,e),!f`). */
export function parseLabelSelector(text: string): Predicate {
  const tests = clauses(text).map(labelClause);
  return (object) => tests.every((t) => t(object.metadata.labels ?? {}));
}

/** True for a selector that would take in everything. */
export function isEmptySelector(selector: unknown): boolean {
  const size = (value: unknown): number => Object.keys((value ?? {}) as object).length;
  return size(dig(selector, 'matchLabels')) + size(dig(selector, 'matchExpressions')) === 0;
}

/** A label selector object (`matchLabels`, `matchExpressions`) as a predicate on labels. */
export function matchesSelector(
  selector: unknown,
  labels: Readonly<Record<string, string>>,
): boolean {
  const wanted = Object.entries((dig(selector, 'matchLabels') ?? {}) as Record<string, string>);
  if (!wanted.every(([k, v]) => labels[k] === v)) return false;
  const expressions = (dig(selector, 'matchExpressions') ?? []) as {
    key: string;
    operator: string;
    values?: string[];
  }[];
  return expressions.every(({ key, operator, values = [] }) => {
    const value = labels[key];
    switch (operator) {
      case 'In':
        return value !== undefined && values.includes(value);
      case 'NotIn':
        return value === undefined || !values.includes(value);
      case 'Exists':
        return value !== undefined;
      case 'DoesNotExist':
        return value === undefined;
      default:
        return false;
    }
  });
}

function fieldValue(object: ApiObject, path: string): string {
  const value = dig(object, ...path.split('.'));
  return scalarText(value);
}

const ALWAYS_SELECTABLE = ['metadata.name', 'metadata.namespace'];

/**
 * Parses a field selector (`metadata.name=x,status.phase!=Running`).
 *
 * @param kind Whose fields may be named. @throws StatusError for any other field.
 */
export function parseFieldSelector(
  text: string,
  kind: { readonly selectable?: readonly string[] },
): Predicate {
  const tests = clauses(text).map((clause): Predicate => {
    const match = /^([\w.]+)\s*(==|=|!=)\s*(.*)$/.exec(clause);
    if (!match) throw new StatusError('BadRequest', `invalid field selector: ${clause}`);
    const [, path = '', operator, value = ''] = match;
    if (!ALWAYS_SELECTABLE.includes(path) && !kind.selectable?.includes(path))
      throw new StatusError('BadRequest', `field label not supported: ${path}`);
    return operator === '!='
      ? (object) => fieldValue(object, path) !== value
      : (object) => fieldValue(object, path) === value;
  });
  return (object) => tests.every((t) => t(object));
}
