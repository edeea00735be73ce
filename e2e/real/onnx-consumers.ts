import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { seededRandom } from '@shoal/core';
import { conv2d, dense, flatten, maxPool2d, relu, sequential, Trainer } from '@shoal/training';
import { has, type Outcome, run } from './outcome.ts';

const CHECK = `
import sys, json, onnx, numpy, onnxruntime
onnx.checker.check_model(onnx.load(sys.argv[1]), full_check=True)
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
x = numpy.full((2, 1, 12, 12), 0.5, numpy.float32)
got = session.run(None, {session.get_inputs()[0].name: x})[0]
wanted = numpy.array(json.loads(sys.argv[2]), numpy.float32).reshape(got.shape)
assert numpy.abs(got - wanted).max() < 1e-5, (got, wanted)
print("checked by onnx", onnx.__version__, "and run by onnxruntime", onnxruntime.__version__)`;

/** A trained file must open in any ONNX consumer: held against Python's checker. */
export async function onnxConsumers(): Promise<Outcome[]> {
  const name = 'a trained model passes the Python onnx checker and runs in Python’s onnxruntime';
  if (!has('python3', '--version'))
    return [{ name, result: 'skipped', detail: 'python3 is not here' }];
  const dir = mkdtempSync(join(tmpdir(), 'shoal-onnx-'));
  const site = join(dir, 'site');
  if (!has('python3', '-c', 'import onnx, onnxruntime'))
    run('python3', ['-m', 'pip', 'install', '-q', '--target', site, 'onnx', 'onnxruntime'], {
      timeoutMs: 180_000,
    });
  const env = { PYTHONPATH: site };
  try {
    if (run('python3', ['-c', 'import onnx, onnxruntime'], { env }).code !== 0)
      return [
        {
          name,
          result: 'skipped',
          detail: 'the Python package onnx is not here and cannot be installed',
        },
      ];
    const layers = [
      conv2d(4, 3, { stride: 2, padding: 1 }),
      relu(),
      maxPool2d(2),
      flatten(),
      dense(5),
    ];
    const trainer = await Trainer.create({
      model: sequential({ input: [1, 12, 12], layers, random: seededRandom(1) }),
      loss: 'softmax-cross-entropy',
      optimizer: { name: 'adam', learningRate: 0.01 },
    });
    const batch = {
      inputs: new Float32Array(2 * 144).fill(0.5),
      targets: BigInt64Array.of(1n, 2n),
      size: 2,
    };
    await trainer.step(batch);
    const { output } = await trainer.evaluate(batch);
    const file = join(dir, 'trained.onnx');
    writeFileSync(file, trainer.deploy());
    await trainer.release();
    const { code, stdout, stderr } = run(
      'python3',
      ['-c', CHECK, file, JSON.stringify([...output])],
      { env },
    );
    return [
      {
        name,
        result: code === 0 ? 'passed' : 'failed',
        detail: (stdout + stderr).trim().slice(-500),
      },
    ];
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
