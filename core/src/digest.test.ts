import { expect, test } from 'vitest';
import { canonicalJson, digester, digestOf, isDigest } from './digest.ts';
import { errnoOf, fromNode, ShoalError } from './errors.ts';

test('digests are those of the standard', () => {
  // FIPS 180-4 test vector for "abc".
  expect(digestOf('abc')).toBe(
    'sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
  );
  const parts = digester();
  parts.update(Buffer.from('a'));
  parts.update(Buffer.from('bc'));
  expect(parts.digest()).toBe(digestOf('abc'));
  expect(isDigest(digestOf('abc'))).toBe(true);
  expect(isDigest('sha256:../../etc/passwd')).toBe(false);
});

test('canonical JSON does not depend on the order of keys', () => {
  expect(canonicalJson({ b: [1, { d: 1, c: 2 }], a: undefined })).toBe(
    canonicalJson({ b: [1, { c: 2, d: 1 }] }),
  );
});

test('foreign errors become ours once, with a code and what was being done', () => {
  const error = fromNode(
    Object.assign(new Error('no such file'), { code: 'ENOENT' }),
    'reading /x',
  );
  expect(error).toMatchObject({
    code: 'not_found',
    retry: 'terminal',
    message: 'reading /x: no such file',
  });
  expect(fromNode(error, 'again')).toBe(error);
  expect(new ShoalError('unavailable', 'x').retry).toBe('backoff');
  expect(errnoOf(new Error('x', { cause: Object.assign(new Error('y'), { code: 'EPIPE' }) }))).toBe(
    'EPIPE',
  );
});
