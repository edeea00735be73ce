import { expect, test } from 'vitest';
import { evaluateJsonPath } from './json-path.ts';
import { jsonPatch, mergePatch } from './patch.ts';
import { matchesSelector, parseFieldSelector, parseLabelSelector } from './selectors.ts';
import { strategicMergePatch } from './strategic-merge.ts';

// Cases of RFC 7386, appendix A.
test.each([
  [{ a: 'b' }, { a: 'c' }, { a: 'c' }],
  [{ a: 'b' }, { b: 'c' }, { a: 'b', b: 'c' }],
  [{ a: 'b' }, { a: null }, {}],
  [{ a: ['b'] }, { a: 'c' }, { a: 'c' }],
  [{ a: { b: 'c' } }, { a: { b: 'd', c: null } }, { a: { b: 'd' } }],
  [{ a: [{ b: 'c' }] }, { a: [1] }, { a: [1] }],
  [{ e: null }, { a: 1 }, { e: null, a: 1 }],
  [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
])('merge patch %j + %j', (target, patch, expected) => {
  expect(mergePatch(target, patch)).toEqual(expected);
});

// Cases of RFC 6902, appendix A.
test('JSON patch: add, remove, replace, move, copy, test', () => {
  expect(jsonPatch({ foo: ['bar', 'baz'] }, [{ op: 'add', path: '/foo/1', value: 'qux' }])).toEqual(
    { foo: ['bar', 'qux', 'baz'] },
  );
  expect(jsonPatch({ foo: ['bar', 'qux', 'baz'] }, [{ op: 'remove', path: '/foo/1' }])).toEqual({
    foo: ['bar', 'baz'],
  });
  expect(
    jsonPatch({ foo: ['all', 'grass', 'cows', 'eat'] }, [
      { op: 'move', from: '/foo/1', path: '/foo/3' },
    ]),
  ).toEqual({ foo: ['all', 'cows', 'eat', 'grass'] });
  expect(jsonPatch({ '/': 9, '~1': 10 }, [{ op: 'test', path: '/~01', value: 10 }])).toEqual({
    '/': 9,
    '~1': 10,
  });
  expect(jsonPatch({ foo: ['bar'] }, [{ op: 'add', path: '/foo/-', value: ['abc'] }])).toEqual({
    foo: ['bar', ['abc']],
  });
  expect(() => jsonPatch({ baz: 'qux' }, [{ op: 'test', path: '/baz', value: 'bar' }])).toThrow(
    /testing path \/baz failed/,
  );
  expect(() => jsonPatch({ foo: 'bar' }, [{ op: 'add', path: '/baz/bat', value: 1 }])).toThrow(
    /does not exist/,
  );
  const target = { a: { b: 1 } };
  jsonPatch(target, [{ op: 'remove', path: '/a/b' }]);
  expect(target).toEqual({ a: { b: 1 } });
});

test('strategic merge: containers merge by name, order is kept, directives work', () => {
  const target = {
    spec: {
      containers: [
        { name: 'a', image: '1', env: [{ name: 'X', value: '1' }] },
        { name: 'b', image: '1' },
      ],
    },
  };
  const patched = strategicMergePatch(target, {
    spec: {
      $setElementOrder: 0,
      containers: [
        { name: 'a', env: [{ name: 'Y', value: '2' }] },
        { name: 'c', image: '3' },
        { name: 'b', $patch: 'delete' },
      ],
      '$setElementOrder/containers': [{ name: 'c' }, { name: 'a' }],
    },
  });
  expect(patched).toMatchObject({
    spec: {
      containers: [
        { name: 'c', image: '3' },
        {
          name: 'a',
          image: '1',
          env: [
            { name: 'X', value: '1' },
            { name: 'Y', value: '2' },
          ],
        },
      ],
    },
  });
  expect(
    strategicMergePatch(
      { spec: { ports: [{ port: 80, targetPort: 1 }] } },
      { spec: { ports: [{ port: 80, targetPort: 2 }, { port: 81 }] } },
    ),
  ).toEqual({ spec: { ports: [{ port: 80, targetPort: 2 }, { port: 81 }] } });
  expect(strategicMergePatch({ a: { x: 1 } }, { a: { $patch: 'replace', y: 2 } })).toEqual({
    a: { y: 2 },
  });
  expect(
    strategicMergePatch(
      { metadata: { finalizers: ['a', 'b'] } },
      { metadata: { '$deleteFromPrimitiveList/finalizers': ['a'] } },
    ),
  ).toEqual({ metadata: { finalizers: ['b'] } });
});

const labelled = (labels: Record<string, string>): never =>
  ({
    apiVersion: 'v1',
    kind: 'X',
    metadata: { name: 'n', labels },
    status: { phase: 'Running' },
  }) as never;

test.each([
  ['a=1', true],
  ['a==1', true],
  ['a!=1', false],
  ['b!=1', true],
  ['a in (1,2)', true],
  ['a notin (1,2)', false],
  ['a', true],
  ['!b', true],
  ['!a', false],
  ['a=1,c=3', false],
  ['b in (1)', false],
])('label selector %s', (selector, wanted) => {
  expect(parseLabelSelector(selector)(labelled({ a: '1' }))).toBe(wanted);
});

const PODS = { selectable: ['status.phase'] };

test('field selectors and selector objects', () => {
  expect(parseFieldSelector('metadata.name=n,status.phase!=Failed', PODS)(labelled({}))).toBe(true);
  expect(parseFieldSelector('status.phase=Failed', PODS)(labelled({}))).toBe(false);
  expect(() => parseFieldSelector('nonsense', PODS)).toThrow(/invalid field selector/);
  expect(() => parseFieldSelector('spec.x=1', PODS)).toThrow('field label not supported: spec.x');
  expect(
    matchesSelector(
      { matchLabels: { a: '1' }, matchExpressions: [{ key: 'b', operator: 'DoesNotExist' }] },
      { a: '1' },
    ),
  ).toBe(true);
  expect(
    matchesSelector(
      { matchExpressions: [{ key: 'a', operator: 'In', values: ['2'] }] },
      { a: '1' },
    ),
  ).toBe(false);
});

test('JSONPath as printer columns use it', () => {
  const o = {
    status: {
      conditions: [{ type: 'A' }, { type: 'B', reason: 'r' }],
      metrics: [{ key: 'k', value: '7' }],
    },
  };
  expect(evaluateJsonPath(o, '.status.conditions[-1:].type')).toEqual(['B']);
  expect(evaluateJsonPath(o, '.status.conditions[0].type')).toEqual(['A']);
  expect(evaluateJsonPath(o, '.status.metrics[?(@.key=="k")].value')).toEqual(['7']);
  expect(evaluateJsonPath(o, '.status.nothing.at.all')).toEqual([]);
  expect(evaluateJsonPath(o, '.status..x')).toBeUndefined();
});
