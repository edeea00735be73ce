import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { FakeClock } from '@shoal/core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { RevisionedStore } from '../store/revisioned-store.ts';
import { BUILTIN_RESOURCES, BUILTIN_SCHEMAS } from './builtin-resources.ts';
import { type Resource, ResourceRegistry } from './resource-registry.ts';
import { ServiceAccountTokens } from './service-account-tokens.ts';
import { Verbs } from './verbs.ts';

const folder = mkdtempSync(`${tmpdir()}/shoal-tokens-`);
const clock = new FakeClock(1_000_000_000);
const store = new RevisionedStore(':memory:');
const registry = new ResourceRegistry(BUILTIN_RESOURCES, BUILTIN_SCHEMAS);
const verbs = new Verbs(store, registry, clock);
const tokens = new ServiceAccountTokens(folder, { verbs, registry, clock });
const resource = (plural: string): Resource => registry.find('', 'v1', plural) as Resource;
const at = { namespace: 'default', name: 'robot' };
let uid = '';

beforeAll(async () => {
  const namespaces = { resource: resource('namespaces'), namespace: '' };
  await verbs.create(namespaces, { metadata: { name: 'default' } });
  const accounts = { resource: resource('serviceaccounts'), namespace: 'default' };
  const { object } = await verbs.create(accounts, { metadata: { name: 'robot' } });
  uid = object.metadata.uid ?? '';
});
afterAll(() => {
  store.close();
  rmSync(folder, { recursive: true });
});

test('a token stands for its account until its time is over', () => {
  const { token } = tokens.create({ ...at, uid }, 600);
  expect(tokens.userOf(token)).toEqual({
    name: 'system:serviceaccount:default:robot',
    groups: ['system:serviceaccounts', 'system:serviceaccounts:default'],
    uid,
  });
  void clock.advance(599_000);
  expect(tokens.userOf(token)).toBeDefined();
  void clock.advance(1_000);
  expect(tokens.userOf(token)).toBeUndefined();
});

test('one that was changed, made with another key, for others, or of an account before is nobody’s', () => {
  const { token } = tokens.create({ ...at, uid }, 600);
  const [head = '', body = '', signature = ''] = token.split('.');
  const payload = JSON.parse(Buffer.from(body, 'base64url').toString()) as { exp: number };
  const longer = Buffer.from(JSON.stringify({ ...payload, exp: payload.exp + 1 })).toString(
    'base64url',
  );
  expect(tokens.userOf(`${head}.${longer}.${signature}`)).toBeUndefined();
  expect(tokens.userOf(`${head}.${body}.`)).toBeUndefined();
  expect(tokens.userOf('x')).toBeUndefined();
  const other = mkdtempSync(`${tmpdir()}/shoal-tokens-`);
  const strangers = new ServiceAccountTokens(other, { verbs, registry, clock });
  rmSync(other, { recursive: true });
  expect(tokens.userOf(strangers.create({ ...at, uid }, 600).token)).toBeUndefined();
  expect(tokens.userOf(tokens.create({ ...at, uid: 'before' }, 600).token)).toBeUndefined();
  expect(tokens.userOf(tokens.create({ ...at, uid }, 600, ['vault']).token)).toBeUndefined();
});

test('it ends with its account', async () => {
  const { token } = tokens.create({ ...at, uid }, 600);
  expect(tokens.userOf(token)).toBeDefined();
  await verbs.delete({ resource: resource('serviceaccounts'), ...at });
  expect(tokens.userOf(token)).toBeUndefined();
});
