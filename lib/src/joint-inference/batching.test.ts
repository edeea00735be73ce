import { FakeClock, ShoalError } from '@shoal/core';
import { expect, test } from 'vitest';
import type { Predictions } from '../estimator/estimator.ts';
import { Batcher } from './batcher.ts';
import { withBreaker } from './circuit-breaker.ts';
import { tensorBody, tensorRows } from './tensor-body.ts';

/** A model that doubles its input, one batch at a time, when it is told to. */
function gatedModel(): {
  run: (inputs: Float32Array, size: number) => Promise<Predictions>;
  release: () => Promise<void>;
  sizes: number[];
} {
  const sizes: number[] = [];
  let open: (() => void)[] = [];
  return {
    sizes,
    run: async (inputs, size) => {
      sizes.push(size);
      await new Promise<void>((resolve) => open.push(resolve));
      if (inputs.some(Number.isNaN)) throw new Error('NaN in, nothing out');
      return { probabilities: inputs.map((v) => 2 * v), classes: inputs.length / size, size };
    },
    release: async () => {
      for (const go of open.splice(0)) go();
      open = [];
      for (let i = 0; i < 20; i++) await Promise.resolve();
    },
  };
}

const one = (...values: number[]): Float32Array[] => [Float32Array.from(values)];

test('what comes in while a batch runs becomes the next batch; everyone gets their own rows', async () => {
  const model = gatedModel();
  const batcher = new Batcher({ run: model.run, maxBatch: 4 });
  const answers = [1, 2, 3, 4, 5, 6].map(async (v) => await batcher.predict(one(v)));
  for (let i = 0; i < 4; i++) await model.release();
  expect((await Promise.all(answers)).map(([row]) => row?.[0])).toEqual([2, 4, 6, 8, 10, 12]);
  expect(model.sizes).toEqual([1, 4, 1]);
  expect(batcher.figures).toEqual({ batches: 3, samples: 6, refused: 0, late: 0 });
});

test('a sample that breaks the model or has another size fails alone', async () => {
  const model = gatedModel();
  const batcher = new Batcher({ run: model.run });
  const first = batcher.predict(one(1));
  const bad = batcher.predict(one(Number.NaN)).catch((error: Error) => error.message);
  const wide = batcher.predict(one(1, 2));
  const good = batcher.predict(one(3));
  for (let i = 0; i < 8; i++) await model.release();
  expect([...((await first)[0] ?? [])]).toEqual([2]);
  expect(await bad).toBe('NaN in, nothing out');
  expect([...((await wide)[0] ?? [])]).toEqual([2, 4]);
  expect([...((await good)[0] ?? [])]).toEqual([6]);
});

test('more than may wait is refused at once; what waited too long is not run', async () => {
  const model = gatedModel();
  const batcher = new Batcher({ run: model.run, maxQueue: 2 });
  const running = batcher.predict(one(1));
  const late = batcher.predict(one(2), 0.001).catch((error: ShoalError) => error.code);
  const waiting = batcher.predict(one(3));
  await expect(batcher.predict(one(4))).rejects.toMatchObject({ code: 'resource_exhausted' });
  await new Promise((resolve) => setTimeout(resolve, 2));
  for (let i = 0; i < 4; i++) await model.release();
  await Promise.all([running, waiting]);
  expect(await late).toBe('deadline_exceeded');
  expect(model.sizes).toEqual([1, 1]);
  expect(batcher.figures).toMatchObject({ refused: 1, late: 1 });
});

test('an idle model may wait for company', async () => {
  const model = gatedModel();
  const batcher = new Batcher({ run: model.run, maxDelayMs: 5, maxBatch: 3 });
  const answers = [1, 2].map(async (v) => await batcher.predict(one(v)));
  expect(model.sizes).toEqual([]);
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(model.sizes).toEqual([2]);
  await model.release();
  await Promise.all(answers);
});

test('the breaker opens after failures in a row, lets one try, and closes on success', async () => {
  const clock = new FakeClock();
  let [asked, works] = [0, false];
  const model = withBreaker(
    {
      infer: async () => {
        asked++;
        if (works) return await Promise.resolve([1]);
        throw new ShoalError('unavailable', 'no answer');
      },
    },
    { failures: 3, openMs: 1_000, clock },
  );
  const ask = async (): Promise<string> =>
    await model.infer(new Float32Array(1)).then(
      () => 'answer',
      (error: Error) => error.message,
    );
  for (let i = 0; i < 3; i++) expect(await ask()).toBe('no answer');
  expect(await ask()).toMatch(/failed 3 times in a row; it is asked again in 1000 ms/);
  expect(asked).toBe(3);
  await clock.advance(1_000);
  expect(await ask()).toBe('no answer'); // the trial fails: open again
  expect(await ask()).toMatch(/asked again in 1000 ms/);
  await clock.advance(1_000);
  works = true;
  expect([await ask(), await ask()]).toEqual(['answer', 'answer']);
});

test('tensor bodies keep every bit, and a body that does not fit its shape is refused', () => {
  const rows = [Float32Array.of(1.5, -0), Float32Array.of(3e-39, Number.MAX_VALUE)];
  const { body, headers } = tensorBody(rows);
  const header = (name: string): string | undefined => headers[name];
  expect(tensorRows(body, header).map((r) => [...r])).toEqual(rows.map((r) => [...r]));
  const told =
    (over: Record<string, string>, bytes = body) =>
    () =>
      tensorRows(bytes, (name) => ({ ...headers, ...over })[name]);
  expect(told({ 'x-shoal-shape': '3,2' })).toThrow(/shape \[3, 2\] has 24 bytes, the body has 16/);
  expect(told({ 'x-shoal-shape': 'two' })).toThrow(/must be \[size, …sample\]/);
  expect(told({ 'x-shoal-shape': '4' })).toThrow(/must be \[size, …sample\]/);
  expect(told({ 'x-shoal-dtype': 'int8' })).toThrow(/must be float32, got "int8"/);
});
