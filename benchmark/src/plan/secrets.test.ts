import { describe, expect, it } from 'vitest';
import { fromEnvironment, REDACTED, redacted, secretsOf } from './secrets.ts';

describe('secrets among hyper-parameters', () => {
  const value = {
    model: 'gpt',
    api_key: 'abc',
    nested: [{ password: 'hunter2' }, { learning_rate: 0.1 }],
    note: 'sk-abcdefghijklmnop',
    tokens: 5,
  };

  it('are never stored or shown', () => {
    expect(redacted(value)).toEqual({
      model: 'gpt',
      api_key: REDACTED,
      nested: [{ password: REDACTED }, { learning_rate: 0.1 }],
      note: REDACTED,
      tokens: 5,
    });
  });

  it('are known, to be kept out of logs', () => {
    expect(secretsOf({ ...value, api_key: 'abcd', pin: { env: 'PIN' } }, { PIN: '98765' })).toEqual(
      ['abcd', 'hunter2', 'sk-abcdefghijklmnop', '98765'],
    );
  });

  it('are numbers too, and swept ones', () => {
    const swept = { 'basemodel-api_key': 'a', password: 83726154, private_key: 'b' };
    expect(Object.values(redacted(swept))).toEqual([REDACTED, REDACTED, REDACTED]);
  });

  it('are in addresses, headers and tokens of well-known kinds', () => {
    const held = {
      url: 'https://me:hunter22@host/x',
      header: 'Bearer abcdefgh',
      pat: 'github_pat_11ABCDEFG0123456',
    };
    expect(redacted(held)).toEqual({
      url: `https://me:${REDACTED}@host/x`,
      header: REDACTED,
      pat: REDACTED,
    });
    expect(secretsOf(held, {})).toEqual([
      'hunter22',
      'Bearer abcdefgh',
      'github_pat_11ABCDEFG0123456',
    ]);
  });

  it('are not what only sounds like them', () => {
    const plain = { high_pass: 0.25, secret_shares: 2, bypass: 'yes', url: 'https://host:80/a@b' };
    expect(redacted(plain)).toEqual(plain);
  });

  it('are not the tokens of a vocabulary', () => {
    expect(redacted({ pad_token: '<pad>', max_tokens: 5 })).toEqual({
      pad_token: '<pad>',
      max_tokens: 5,
    });
  });

  it('may stand in the environment instead of a file', () => {
    expect(fromEnvironment({ key: { env: 'MY_KEY' }, rate: 1 }, { MY_KEY: 'x' })).toEqual({
      key: 'x',
      rate: 1,
    });
    expect(fromEnvironment({ key: { env: 'NONE' } }, {})).toEqual({ key: null });
  });
});
