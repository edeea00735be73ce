import { seededRandom } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { conv2d, dense, flatten, maxPool2d, relu, residual, sequential } from '../layers.ts';
import { splitModel } from './split-model.ts';

function network(): Uint8Array {
  const layers = [
    conv2d(4, 3),
    relu(),
    residual(conv2d(4, 3, { padding: 1 }), relu()),
    maxPool2d(2),
    flatten(),
    dense(16),
    relu(),
    dense(3),
  ];
  return sequential({ input: [1, 12, 12], layers, random: seededRandom(1) });
}

const batch = 5;
const random = seededRandom(2);
const input = Float32Array.from({ length: batch * 144 }, () => random.normal());

function numbers(value: ort.Tensor | undefined): number[] {
  return [...((value?.data ?? []) as Float32Array)];
}

async function whole(model: Uint8Array): Promise<number[]> {
  const session = await ort.InferenceSession.create(model);
  const name = session.inputNames[0] ?? '';
  const results = await session.run({
    [name]: new ort.Tensor('float32', input, [batch, 1, 12, 12]),
  });
  return numbers(results[session.outputNames[0] ?? '']);
}

async function throughStages(stages: Awaited<ReturnType<typeof splitModel>>): Promise<number[]> {
  const values = new Map([
    [stages[0]?.inputs[0] ?? '', new ort.Tensor('float32', input, [batch, 1, 12, 12])],
  ]);
  let last: number[] = [];
  for (const { model, inputs, outputs } of stages) {
    const session = await ort.InferenceSession.create(model);
    const feeds = Object.fromEntries(
      inputs.flatMap((n) => (values.has(n) ? [[n, values.get(n)]] : [])),
    );
    const results = await session.run(feeds as Record<string, ort.Tensor>);
    for (const n of outputs) {
      const value = results[n];
      if (value) values.set(n, value as never);
      last = numbers(value);
    }
  }
  return last;
}

describe('a model cut into stages', () => {
  it.each([1, 2, 3, 5])(
    'of %d machines answers as the whole does, for any batch',
    async (stages) => {
      const model = network();
      const parts = await splitModel({ model, stages });
      expect(parts).toHaveLength(stages);
      const expected = await whole(model);
      const answers = await throughStages(parts);
      expect(answers).toHaveLength(expected.length);
      for (const [i, v] of answers.entries()) expect(v).toBeCloseTo(expected[i] ?? Number.NaN, 5);
    },
  );

  it('has every parameter in one stage, and about the same work in each', async () => {
    const model = network();
    const [all] = await splitModel({ model, stages: 1 });
    const parts = await splitModel({ model, stages: 3 });
    expect(parts.reduce((n, p) => n + p.parameterBytes, 0)).toBe(all?.parameterBytes);
    expect(parts.reduce((n, p) => n + p.work, 0)).toBeCloseTo(all?.work ?? 0, 6);
    expect(Math.max(...parts.map((p) => p.work))).toBeLessThan(all?.work ?? 0);
  });

  it('counts values that only pass through', async () => {
    const model = network();
    const [all] = await splitModel({ model, stages: 1 });
    // Three classes leave the last stage.
    expect(all?.bytesOn).toBe(12);
    const parts = await splitModel({ model, stages: 5 });
    for (const p of parts.slice(0, -1)) expect(p.bytesOn).toBeGreaterThan(0);
  });

  it('refuses a value that is not there, and more stages than nodes', async () => {
    const model = network();
    await expect(splitModel({ model, stages: 2, points: ['nowhere'] })).rejects.toThrow(
      /no value "nowhere"/,
    );
    await expect(splitModel({ model, stages: 1_000 })).rejects.toThrow(/cannot make 1000 stages/);
  });
});
