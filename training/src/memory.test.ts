import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { markAsUntransferable } from 'node:worker_threads';
import { seededRandom } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import { expect, test } from 'vitest';
import { freeNow } from './free-now.ts';
import { dense, relu, sequential } from './layers.ts';
import { attribute } from './onnx/graph-builder.ts';
import { letGoOf } from './onnx/let-go.ts';
import { readModel, writeModel } from './onnx/model-file.ts';
import { Trainer } from './trainer.ts';

/** Two layers of 500: 2 MiB, with a string on a node as exporters write them. */
function largeModel(): Uint8Array {
  const layers = [dense(500), relu(), dense(500)];
  const model = readModel(sequential({ input: [500], layers, random: seededRandom(1) }));
  model.graph?.node[0]?.attribute.push(attribute('doc_of_the_exporter', 'kept'));
  return writeModel(model);
}

/** Every byte field of a message, at any depth. */
function bytesOf(message: object): Uint8Array[] {
  return Object.values(message).flatMap((value: unknown) => {
    if (value instanceof Uint8Array) return [value];
    return typeof value === 'object' && value !== null && !ArrayBuffer.isView(value)
      ? bytesOf(value)
      : [];
  });
}

test('a model that let go of its bytes shares nothing with them, and says the same', () => {
  const bytes = largeModel();
  const model = readModel(bytes);
  expect(bytesOf(model).some((b) => b.buffer === bytes.buffer)).toBe(true);
  letGoOf([bytes.buffer], [model]);
  expect(bytesOf(model).some((b) => b.buffer === bytes.buffer)).toBe(false);
  expect(writeModel(model)).toEqual(writeModel(readModel(bytes)));
});

const FROZEN = [
  ['nothing', []],
  ['half of it', ['layer0.*']],
  ['nearly all', ['layer0.*', 'layer2.weight']],
] as const;

test.each(FROZEN)(
  'the file of a model with %s frozen is let go, and nothing of it is lost',
  async (_, stopGradient) => {
    const dir = mkdtempSync(join(tmpdir(), 'shoal-'));
    try {
      const layers = [dense(500), relu(), dense(500)];
      const bytes = sequential({ input: [500], layers, random: seededRandom(1) });
      const file = join(dir, 'model.onnx');
      writeFileSync(file, bytes);
      const trainer = await Trainer.create({
        model: file,
        loss: 'mean-squared-error',
        optimizer: { name: 'sgd', learningRate: 1e-3 },
        stopGradient,
        threads: 1,
      });
      const batch = {
        inputs: new Float32Array(1_000).fill(0.1),
        targets: new Float32Array(1_000).fill(0.2),
        size: 2,
      };
      for (let i = 0; i < 3; i++) await trainer.step(batch);
      const { output } = await trainer.evaluate(batch);
      const session = await ort.InferenceSession.create(trainer.deploy());
      const [name = ''] = session.inputNames;
      const results = await session.run({
        [name]: new ort.Tensor('float32', batch.inputs, [2, 500]),
      });
      const served = results[session.outputNames[0] ?? '']?.data as Float32Array;
      for (const [i, v] of served.entries()) expect(v).toBeCloseTo(output[i] ?? Number.NaN, 5);
      const before = readModel(bytes).graph?.initializer ?? [];
      const after = readModel(trainer.deploy()).graph?.initializer ?? [];
      const frozen = (n: string): boolean =>
        stopGradient.some((p) => n.startsWith(p.replace('*', '')));
      for (const [i, tensor] of before.entries())
        expect(Buffer.compare(tensor.rawData, after[i]?.rawData ?? Buffer.alloc(0)) === 0).toBe(
          frozen(tensor.name),
        );
      await Promise.all([session.release(), trainer.release()]);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  },
);

test('memory that is not ours to free stays', () => {
  const pool = Buffer.from('read into the pool').buffer;
  freeNow(pool);
  expect(pool.byteLength).toBeGreaterThan(0);
  const kept = new ArrayBuffer(2 ** 18);
  markAsUntransferable(kept);
  freeNow(kept);
  expect(kept.byteLength).toBe(2 ** 18);
  const own = new ArrayBuffer(2 ** 18);
  freeNow(own);
  expect(own.byteLength).toBe(0);
});
