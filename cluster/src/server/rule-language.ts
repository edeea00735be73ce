import { isIP } from 'node:net';
import { Environment } from '@marcbachmann/cel-js';
import { isJsonObject, toRegExp } from '@shoal/core';

/**
 * The Common Expression Language as Kubernetes' validation rules speak it: what Kubernetes adds to
 * it (lists, regular expressions, addresses), as far as it is known here.
 * Source: Kubernetes documentation, "Common Expression Language in Kubernetes".
 */

/** A node of an expression; `.` has the expression before the dot and a name. */
interface Node {
  readonly op: string;
  readonly args: readonly unknown[];
}

/** The parts of the library's checker and evaluator that a macro gets. */
interface Checker {
  check(node: unknown, context: unknown): unknown;
  getType(name: string): unknown;
  createError(code: string, message: string, node: unknown): Error;
}
interface Evaluator {
  run(node: unknown, context: unknown): unknown;
}

function isSorted(list: readonly unknown[]): boolean {
  return list.every((value, i) => i === 0 || (list[i - 1] as number) <= (value as number));
}

function extreme(list: readonly unknown[], name: 'min' | 'max'): unknown {
  if (list.length === 0) throw new Error(`${name} called on empty list`);
  return list.reduce((best, value) => {
    const less = (value as number) < (best as number);
    return less === (name === 'min') ? value : best;
  });
}

function total(list: readonly unknown[]): unknown {
  if (list.length === 0) return 0n;
  return list.reduce((sum, value) => (sum as number) + (value as number));
}

function same(a: unknown, b: unknown): boolean {
  return a === b || (typeof a === 'object' && JSON.stringify(a) === JSON.stringify(b));
}

/** `has(e.f)` for any expression `e`: the library's own takes names only, not `has(list[0].f)`. */
function presence({ args }: { args: readonly Node[] }): object {
  const [field] = args;
  return {
    typeCheck(checker: Checker, _macro: unknown, context: unknown): unknown {
      if (field?.op !== '.')
        throw checker.createError('invalid_macro_argument', 'has() invalid argument', field);
      checker.check(field.args[0], context);
      return checker.getType('bool');
    },
    evaluate(evaluator: Evaluator, _macro: unknown, context: unknown): boolean {
      const owner = evaluator.run(field?.args[0], context);
      const name = String(field?.args[1]);
      return isJsonObject(owner) && Object.hasOwn(owner, name) && owner[name] !== undefined;
    },
    async: false,
  };
}

/** The texts of an expression, which hold no code. */
const TEXTS = /("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')/;

/** The expression with `has` as it is understood here. */
export function withPresence(expression: string): string {
  return expression
    .split(TEXTS)
    .map((part, i) => (i % 2 === 1 ? part : part.replace(/(?<![.\w])has\s*\(/g, 'present(')))
    .join('');
}

/** An environment in which `self` and `oldSelf` are anything. */
export function ruleEnvironment(): Environment {
  const env = new Environment({
    enableOptionalTypes: true,
    homogeneousAggregateLiterals: false,
    limits: { maxAstNodes: 10_000, maxDepth: 100 },
  });
  env.registerVariable('self', 'dyn').registerVariable('oldSelf', 'dyn');
  const on = (signature: string, handler: (...args: never[]) => unknown): unknown =>
    env.registerFunction(signature, handler);
  on('present(ast): bool', presence);
  on('list.isSorted(): bool', isSorted);
  on('list.sum(): dyn', total);
  on('list.min(): dyn', (list: unknown[]) => extreme(list, 'min'));
  on('list.max(): dyn', (list: unknown[]) => extreme(list, 'max'));
  on('list.indexOf(dyn): int', (list: unknown[], item: unknown) =>
    BigInt(list.findIndex((x) => same(x, item))),
  );
  on('list.lastIndexOf(dyn): int', (list: unknown[], item: unknown) =>
    BigInt(list.findLastIndex((x) => same(x, item))),
  );
  on('string.replace(string, string): string', (text: string, a: string, b: string) =>
    text.replaceAll(a, b),
  );
  on(
    'string.find(string): string',
    (text: string, pattern: string) => toRegExp(pattern).exec(text)?.[0] ?? '',
  );
  on('string.findAll(string): list<string>', (text: string, pattern: string) =>
    [...text.matchAll(new RegExp(toRegExp(pattern), 'g'))].map((m) => m[0]),
  );
  on('isURL(string): bool', (text: string) => URL.canParse(text));
  on('isIP(string): bool', (text: string) => isIP(text) !== 0);
  return env;
}
