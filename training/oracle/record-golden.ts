import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * `node training/oracle/record-golden.ts DIR`: keeps small traces of `torch_models.py DIR` for
 * machines without PyTorch: the model, what went in, PyTorch's float64 losses and parameter norms.
 */
const MODELS = ['shared-weights', 'gru-unrolled', 'layernorm-mlp', 'conv-bn', 'transformer'];
const dir = process.argv[2] ?? '';
const out = join(import.meta.dirname, 'golden');

interface Trace {
  readonly batch: number;
  readonly loss: string;
  readonly inputs: string;
  readonly targets: string;
  readonly float64: { readonly losses: number[]; readonly end: Readonly<Record<string, string>> };
}

function traceOf(model: string, optimizer: string): Trace {
  return JSON.parse(readFileSync(join(dir, `${model}.${optimizer}.json`), 'utf8')) as Trace;
}

function recorded({ float64: { losses, end } }: Trace): object {
  const norms = Object.entries(end).map(([name, text]) => {
    const values = new Float32Array(new Uint8Array(Buffer.from(text, 'base64')).buffer);
    return [name, Math.hypot(...values)] as const;
  });
  return { losses, norms: Object.fromEntries(norms) };
}

mkdirSync(out, { recursive: true });
for (const model of MODELS) {
  const sgd = traceOf(model, 'sgd');
  const adam = traceOf(model, 'adam');
  if (sgd.inputs !== adam.inputs) throw new Error(`${model}: the optimizers saw different data`);
  const { batch, loss, inputs, targets } = sgd;
  const file = readFileSync(join(dir, `${model}.onnx`)).toString('base64');
  const traces = { sgd: recorded(sgd), adam: recorded(adam) };
  writeFileSync(
    join(out, `${model}.json`),
    `${JSON.stringify({ batch, loss, inputs, targets, traces, model: file })}\n`,
  );
}
