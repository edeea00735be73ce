import { expect, test } from 'vitest';
import {
  applyDefaults,
  dropIdleNulls,
  prune,
  type StructuralSchema,
  validate,
} from './structural-schema.ts';

const SCHEMA: StructuralSchema = {
  type: 'object',
  required: ['spec'],
  properties: {
    spec: {
      type: 'object',
      required: ['name'],
      properties: {
        name: { type: 'string', minLength: 1, pattern: '^[a-z]+$' },
        share: { type: 'number', minimum: 0, maximum: 1, default: 0.5 },
        mode: { type: 'string', enum: ['a', 'b'] },
        port: { 'x-kubernetes-int-or-string': true },
        free: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true },
        labels: { type: 'object', additionalProperties: { type: 'string' } },
        list: {
          type: 'array',
          maxItems: 2,
          items: { type: 'object', properties: { n: { type: 'integer', default: 1 } } },
        },
      },
    },
  },
};

const messages = (value: unknown): string[] =>
  validate(value, SCHEMA).map((f) => `${f.field}: ${f.message}`);

test('a fitting object has no faults', () => {
  expect(
    messages({
      spec: { name: 'ok', share: 1, mode: 'a', port: '80%', labels: { x: 'y' }, list: [{ n: 2 }] },
    }),
  ).toEqual([]);
});

test('messages name the field and follow the API server’s wording', () => {
  expect(messages({})).toEqual(['spec: Required value']);
  expect(messages({ spec: { name: 3 } })).toEqual([
    'spec.name: Invalid value: 3: spec.name in body must be of type string: "integer"',
  ]);
  expect(messages({ spec: { name: 'ok', share: 2 } })).toEqual([
    'spec.share: Invalid value: 2: spec.share in body should be less than or equal to 1',
  ]);
  expect(messages({ spec: { name: 'ok', mode: 'c' } })).toEqual([
    'spec.mode: Unsupported value: "c": supported values: "a", "b"',
  ]);
  expect(messages({ spec: { name: 'Bad' } })[0]).toMatch(/should match/);
  expect(messages({ spec: { name: 'ok', list: [{ n: 1.5 }] } })).toEqual([
    'spec.list[0].n: Invalid value: 1.5: spec.list[0].n in body must be of type integer: "number"',
  ]);
  expect(messages({ spec: { name: 'ok', list: [{}, {}, {}] } })[0]).toMatch(/at most 2 items/);
  expect(messages({ spec: { name: 'ok', port: 1.5 } })[0]).toMatch(/integer,string/);
});

test('pruning removes what the schema does not name and says what, but not below open objects', () => {
  const value = {
    bogus: 1,
    spec: { name: 'ok', typo: 2, free: { any: 3 }, labels: { k: 'v' }, list: [{ n: 1, extra: 2 }] },
  };
  expect(prune(value, SCHEMA)).toEqual(['bogus', 'spec.typo', 'spec.list[0].extra']);
  expect(value).toEqual({
    spec: { name: 'ok', free: { any: 3 }, labels: { k: 'v' }, list: [{ n: 1 }] },
  });
});

test('defaults reach into lists and do not overwrite', () => {
  const value = { spec: { name: 'ok', list: [{}, { n: 5 }] } };
  applyDefaults(value, SCHEMA);
  expect(value).toEqual({ spec: { name: 'ok', share: 0.5, list: [{ n: 1 }, { n: 5 }] } });
});

test('texts: patterns as Go writes them, formats, and names of formats nobody knows', () => {
  const fits = (schema: StructuralSchema, value: string): boolean =>
    validate(value, { type: 'string', ...schema }).length === 0;
  expect(fits({ pattern: '(?i)^ABC$' }, 'abc')).toBe(true);
  expect(fits({ pattern: '^[[:alnum:]]+$' }, 'a1')).toBe(true);
  expect(fits({ pattern: '^[[:alnum:]]+$' }, 'a-')).toBe(false);
  expect(fits({ pattern: '^a\\_c$' }, 'a_c')).toBe(true);
  expect(fits({ pattern: '^(?P<n>x)\\z' }, 'x')).toBe(true);
  expect(fits({ format: 'ipv4' }, '10.0.0.1')).toBe(true);
  expect(fits({ format: 'ipv4' }, '10.0.0.256')).toBe(false);
  expect(fits({ format: 'uuid' }, 'no')).toBe(false);
  expect(fits({ maxLength: 2 }, '🐟🐟')).toBe(true);
  for (const format of ['constructor', '__proto__', 'of-my-own'])
    expect(fits({ format }, 'x')).toBe(true);
});

test('nulls that mean nothing go, those that mean something stay', () => {
  const schema: StructuralSchema = {
    type: 'object',
    properties: {
      plain: { type: 'string' },
      nullable: { type: 'string', nullable: true },
      filled: { type: 'string', default: 'x' },
      list: { type: 'array', items: { type: 'object', properties: { a: { type: 'string' } } } },
    },
  };
  const value = { plain: null, nullable: null, filled: null, list: [{ a: null }] };
  dropIdleNulls(value, schema);
  expect(value).toEqual({ nullable: null, filled: null, list: [{}] });
});
