import { expect, test } from 'vitest';
import { choice, flag, integer, readConfig, real, type SettingTable, text } from './config.ts';

interface Sample {
  readonly APP_NAME: string;
  readonly APP_PORT: number;
  readonly APP_RATE: number;
  readonly APP_ON: boolean;
  readonly APP_MODE: 'a' | 'b';
}

const TABLE: SettingTable<Sample> = {
  APP_NAME: text('name of the thing'),
  APP_PORT: integer('port', { min: 0, max: 10 }, 7),
  APP_RATE: real('rate', { min: 0, max: 1 }, 0.5),
  APP_ON: flag('switch', false),
  APP_MODE: choice('mode', ['a', 'b'], 'a'),
};

test('defaults fill in, given values are parsed, the result is frozen', () => {
  const config = readConfig(TABLE, {
    APP_NAME: 'x',
    APP_RATE: '0.25',
    APP_ON: 'true',
    APP_PORT: '',
  });
  expect(config).toEqual({
    APP_NAME: 'x',
    APP_PORT: 7,
    APP_RATE: 0.25,
    APP_ON: true,
    APP_MODE: 'a',
  });
  expect(Object.isFrozen(config)).toBe(true);
});

test('all faults are listed at once, with name, value and expectation', () => {
  const source = { APP_PORT: '11', APP_RATE: 'fast', APP_MODE: 'c', APP_TYPO: '1' };
  const read = (): unknown => readConfig(TABLE, source, { prefix: 'APP_' });
  expect(read).toThrow(/APP_NAME is required: name of the thing/);
  expect(read).toThrow(/APP_PORT=11: expected a whole number from 0 to 10/);
  expect(read).toThrow(/APP_RATE=fast: expected a number from 0 to 1/);
  expect(read).toThrow(/APP_MODE=c: expected one of a, b/);
  expect(read).toThrow(/APP_TYPO is not a setting/);
});
