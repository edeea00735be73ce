import type { StructuralSchema } from '@shoal/core';
import { expect, test } from 'vitest';
import type { ApiObject } from '../object.ts';
import { definitionFaults, structuralFaults } from './definition-rules.ts';
import { brokenRules, ruleFaults } from './validation-rules.ts';

const object = (properties: object, more: object = {}): object => ({
  type: 'object',
  properties,
  ...more,
});
const faultsOf = (schema: unknown): string[] =>
  structuralFaults(schema, 'S').map((f) => `${f.field}: ${f.message}`);

test.each([
  [{ properties: {} }, /^S\.type: Required value: must not be empty/],
  [object({ a: {} }), /^S\.properties\[a\]\.type: Required value/],
  [object({ a: { type: 'array' } }), /^S\.properties\[a\]\.items: Required value/],
  [object({ a: { type: 'string', $ref: '#/x' } }), /a\]\.\$ref: Forbidden/],
  [
    object({ a: { type: 'array', items: { type: 'string' }, uniqueItems: true } }),
    /uniqueItems: Forbidden: uniqueItems cannot be set to true/,
  ],
  [
    object({ a: { type: 'string' } }, { additionalProperties: { type: 'string' } }),
    /mutual exclusive/,
  ],
  [object({ a: { type: 'string', pattern: '(' } }), /must be a valid regular expression/],
  [object({ a: { type: 'string', default: 3 } }), /default: Invalid value: 3.*type string/],
  [object({ a: object({ b: { type: 'string' } }, { default: { c: 1 } }) }), /unknown field/],
  [object({ a: { type: 'string', anyOf: [{ type: 'string' }] } }), /anyOf\[0\]\.type: Forbidden/],
  [
    object({
      a: {
        type: 'array',
        items: object({ k: { type: 'string' } }),
        'x-kubernetes-list-type': 'map',
        'x-kubernetes-list-map-keys': ['k'],
      },
    }),
    /so it must have a default or be a required property/,
  ],
  [
    object({ metadata: object({ labels: { type: 'object' } }) }),
    /other than name and generateName/,
  ],
  [
    object({ a: { type: 'integer', 'x-kubernetes-validations': [{ rule: 'selff > 1' }] } }),
    /rule: Invalid value: "selff > 1": compilation failed: Unknown variable: selff/,
  ],
  [
    object({ a: { type: 'integer', 'x-kubernetes-validations': [{ rule: 'self + 1' }] } }),
    /compilation failed/,
  ],
])('a schema that is not structural is refused: %j', (schema, wanted) => {
  const faults = faultsOf(schema);
  expect(faults).toHaveLength(1);
  expect(faults[0]).toMatch(wanted);
});

test('structural schemas pass: texts or numbers, open objects, lists with keys', () => {
  const schema = object({
    a: { 'x-kubernetes-int-or-string': true, anyOf: [{ type: 'integer' }, { type: 'string' }] },
    b: { 'x-kubernetes-preserve-unknown-fields': true },
    c: {
      type: 'array',
      items: object({ k: { type: 'string', default: 'x' }, n: { type: 'integer' } }),
      'x-kubernetes-list-type': 'map',
      'x-kubernetes-list-map-keys': ['k'],
    },
    d: { type: 'object', additionalProperties: { type: 'string' } },
  });
  expect(faultsOf(schema)).toEqual([]);
});

test('a definition: its name, one stored version, no webhook', () => {
  const version = (name: string, storage: boolean): object => ({
    name,
    served: true,
    storage,
    schema: { openAPIV3Schema: { type: 'object' } },
  });
  const crd = (name: string, spec: object): ApiObject => ({
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name },
    spec: { group: 'x.org', names: { plural: 'things' }, ...spec },
  });
  const fine = { versions: [version('v1', true), version('v2', false)] };
  expect(definitionFaults(crd('things.x.org', fine))).toEqual([]);
  expect(definitionFaults(crd('thing.x.org', fine))[0]?.message).toMatch(/spec\.names\.plural/);
  const two = { versions: [version('v1', true), version('v2', true)] };
  expect(definitionFaults(crd('things.x.org', two))[0]?.message).toMatch(/exactly one version/);
  const webhook = { ...fine, conversion: { strategy: 'Webhook' } };
  expect(definitionFaults(crd('things.x.org', webhook))[0]?.message).toMatch(/strategy None only/);
});

const rules = (...list: object[]): StructuralSchema =>
  object(
    {
      min: { type: 'integer' },
      max: { type: 'integer' },
      name: {
        type: 'string',
        'x-kubernetes-validations': [{ rule: 'self == oldSelf', message: 'is immutable' }],
      },
      'two-words': { type: 'string' },
      at: { type: 'string', format: 'date-time' },
      items: {
        type: 'array',
        'x-kubernetes-list-type': 'map',
        'x-kubernetes-list-map-keys': ['k'],
        items: object(
          { k: { type: 'string' }, n: { type: 'integer' } },
          {
            'x-kubernetes-validations': [{ rule: 'self.n >= oldSelf.n', message: 'may only grow' }],
          },
        ),
      },
    },
    { 'x-kubernetes-validations': list },
  ) as StructuralSchema;
const broken = (schema: StructuralSchema, value: unknown, before?: unknown): string[] =>
  brokenRules(value, schema, before).map((f) => `${f.field}: ${f.message}`);

test('rules: between fields, with a message or one that is computed', () => {
  const plain = rules({ rule: 'self.min <= self.max' });
  expect(broken(plain, { min: 1, max: 2 })).toEqual([]);
  expect(broken(plain, { min: 3, max: 2 })).toEqual([
    ': Invalid value: "object": failed rule: self.min <= self.max',
  ]);
  const told = rules({
    rule: 'self.min <= self.max',
    message: 'min above max',
    messageExpression: '"min is " + string(self.min)',
    fieldPath: '.min',
  });
  expect(broken(told, { min: 3, max: 2 })).toEqual(['min: Invalid value: "object": min is 3']);
  expect(broken(plain, { min: 3 })).toEqual([expect.stringMatching(/No such key: max/)]);
});

test('rules: of the past, for fields and for list items with keys', () => {
  const schema = rules();
  expect(broken(schema, { name: 'a' })).toEqual([]);
  expect(broken(schema, { name: 'a' }, { name: 'a' })).toEqual([]);
  expect(broken(schema, { name: 'b' }, { name: 'a' })).toEqual([
    'name: Invalid value: "b": is immutable',
  ]);
  const before = {
    items: [
      { k: 'x', n: 2 },
      { k: 'y', n: 5 },
    ],
  };
  const after = {
    items: [
      { k: 'y', n: 4 },
      { k: 'new', n: 0 },
      { k: 'x', n: 3 },
    ],
  };
  expect(broken(schema, after, before)).toEqual([
    'items[0]: Invalid value: "object": may only grow',
  ]);
});

test('rules: names that are no identifiers, times, what Kubernetes adds to lists', () => {
  const schema = rules(
    { rule: '!has(self.two__dash__words) || self.two__dash__words.size() < 4', message: 'words' },
    { rule: '!has(self.at) || self.at > timestamp("2020-01-01T00:00:00Z")', message: 'at' },
    { rule: '!has(self.items) || self.items.map(i, i.n).isSorted()', message: 'sorted' },
    { rule: '!has(self.items) || self.items.map(i, i.n).sum() < 10', message: 'sum' },
  );
  const good = {
    'two-words': 'abc',
    at: '2024-01-01T00:00:00Z',
    items: [
      { k: 'a', n: 1 },
      { k: 'b', n: 2 },
    ],
  };
  expect(broken(schema, good)).toEqual([]);
  const bad = {
    'two-words': 'abcd',
    at: '2019-01-01T00:00:00Z',
    items: [
      { k: 'a', n: 9 },
      { k: 'b', n: 2 },
    ],
  };
  expect(broken(schema, bad).map((t) => t.split(': ').at(-1))).toEqual([
    'words',
    'at',
    'sorted',
    'sum',
  ]);
});

test('rules: has() of any expression, also beside texts that look like it', () => {
  const schema = rules({
    rule: "size(self.items) == 0 || has(self.items[0].n) || self.name == 'has(self.x)'",
    message: 'n',
  });
  expect(broken(schema, { items: [{ k: 'a', n: 1 }] })).toEqual([]);
  expect(broken(schema, { items: [{ k: 'a' }], name: 'has(self.x)' })).toEqual([]);
  expect(broken(schema, { items: [{ k: 'a' }], name: 'x' })).toEqual([
    ': Invalid value: "object": n',
  ]);
});

test('functions nobody knows here are refused by name', () => {
  const schema = {
    'x-kubernetes-validations': [{ rule: 'quantity(self.a).isGreaterThan(quantity("1"))' }],
  };
  expect(ruleFaults(schema, 'S')[0]?.message).toMatch(/quantity\(.*\)/);
});
