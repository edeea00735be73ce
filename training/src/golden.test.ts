import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Trainer } from './trainer.ts';

/** Recorded from PyTorch in float64 by `training/oracle/record-golden.ts`. */
interface Golden {
  readonly model: string;
  readonly batch: number;
  readonly loss: 'softmax-cross-entropy';
  readonly inputs: string;
  readonly targets: string;
  readonly traces: Readonly<
    Record<
      'sgd' | 'adam',
      { readonly losses: readonly number[]; readonly norms: Readonly<Record<string, number>> }
    >
  >;
}

const OPTIMIZERS = {
  sgd: { name: 'sgd', learningRate: 0.02, momentum: 0.9, weightDecay: 0.01 },
  adam: { name: 'adam', learningRate: 0.002, epsilon: 1e-5 },
} as const;

const folder = join(import.meta.dirname, '../oracle/golden');
const bytes = (text: string): ArrayBuffer => new Uint8Array(Buffer.from(text, 'base64')).buffer;

const CASES = readdirSync(folder).flatMap((file) => [
  [file, 'sgd'] as const,
  [file, 'adam'] as const,
]);

test.each(CASES)('ten steps of %s with %s follow PyTorch’s recorded trace', async (file, name) => {
  const golden = JSON.parse(readFileSync(join(folder, file), 'utf8')) as Golden;
  const { losses, norms: recorded } = golden.traces[name];
  const trainer = await Trainer.create({
    model: new Uint8Array(bytes(golden.model)),
    loss: golden.loss,
    optimizer: OPTIMIZERS[name],
    threads: 1,
  });
  const isTokens = file === 'transformer.json';
  const inputs = new (isTokens ? BigInt64Array : Float32Array)(bytes(golden.inputs));
  const targets = new BigInt64Array(bytes(golden.targets));
  const steps = losses.length;
  for (const [step, wanted] of losses.entries()) {
    const { loss } = await trainer.step({
      inputs: inputs.slice((step * inputs.length) / steps, ((step + 1) * inputs.length) / steps),
      targets: targets.slice(
        (step * targets.length) / steps,
        ((step + 1) * targets.length) / steps,
      ),
      size: golden.batch,
    });
    expect(Math.abs(loss / wanted - 1)).toBeLessThan(1e-5);
  }
  const wanted = Object.values(recorded).toSorted((a, b) => a - b);
  const norms = [...trainer.getParameters().values()]
    .map((v) => Math.hypot(...v))
    .toSorted((a, b) => a - b);
  expect(norms).toHaveLength(wanted.length);
  for (const [i, norm] of norms.entries()) expect(norm).toBeCloseTo(wanted[i] ?? 0, 4);
  await trainer.release();
});
