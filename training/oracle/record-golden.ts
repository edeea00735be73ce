import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * `node training/oracle/record-golden.ts DIR`: keeps small traces of `torch_models.py DIR` for
 * machines without PyTorch: the model, what went in, PyTorch's float64 losses and parameter norms.
 */
const MODELS = ['shared-weights', 'gru-unrolled', 'layernorm-mlp'];
const dir = process.argv[2] ?? '';
const out = join(import.meta.dirname, 'golden');
mkdirSync(out, { recursive: true });
for (const model of MODELS) {
  for (const optimizer of ['sgd', 'adam']) {
    const trace = JSON.parse(readFileSync(join(dir, `${model}.${optimizer}.json`), 'utf8')) as {
      batch: number;
      loss: string;
      inputs: string;
      targets: string;
      float64: { losses: number[]; end: Record<string, string> };
    };
    const norms = Object.fromEntries(
      Object.entries(trace.float64.end).map(([name, text]) => {
        const values = new Float32Array(new Uint8Array(Buffer.from(text, 'base64')).buffer);
        return [name, Math.hypot(...values)];
      }),
    );
    const { batch, loss, inputs, targets } = trace;
    const kept = {
      model: readFileSync(join(dir, `${model}.onnx`)).toString('base64'),
      batch,
      loss,
      inputs,
      targets,
      losses: trace.float64.losses,
      norms,
    };
    writeFileSync(join(out, `${model}.${optimizer}.json`), JSON.stringify(kept));
  }
}
