import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { seededRandom } from '@shoal/core';
import {
  batchNorm,
  conv2d,
  dense,
  dropout,
  flatten,
  type Layer,
  maxPool2d,
  readModel,
  relu,
  sequential,
  Trainer,
  writeModel,
} from '@shoal/training';
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

const BATCH = {
  inputs: new Float32Array(2 * 144).fill(0.5),
  targets: BigInt64Array.of(1n, 2n),
  size: 2,
};

const built = (...layers: readonly Layer[]): Uint8Array =>
  sequential({ input: [1, 12, 12], layers, random: seededRandom(1) });

const convolutions = (): Uint8Array =>
  built(conv2d(4, 3, { stride: 2, padding: 1 }), relu(), maxPool2d(2), flatten(), dense(5));

/** The same with statistics and dropout, whose training forms must not get into the file. */
const normalized = (): Uint8Array =>
  built(conv2d(4, 3), batchNorm(), relu(), dropout(0.2), flatten(), dense(5));

/** As a file of operator set 13 has it, and stays: axes of reductions are attributes there. */
function older(): Uint8Array {
  const model = readModel(normalized());
  for (const { version, ...rest } of model.opsetImport.splice(0))
    model.opsetImport.push({ ...rest, version: version > 13n ? 13n : version });
  return writeModel(model);
}

const CASES: readonly (readonly [what: string, model: () => Uint8Array, externalData: boolean])[] =
  [
    ['convolutions', convolutions, false],
    ['running statistics and dropout', normalized, false],
    ['tensors beside the file', normalized, true],
    ['operator set 13', older, false],
  ];

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
    const outcomes: Outcome[] = [];
    for (const [what, model, externalData] of CASES) {
      const trainer = await Trainer.create({
        model: model(),
        loss: 'softmax-cross-entropy',
        optimizer: { name: 'adam', learningRate: 0.01 },
      });
      await trainer.step(BATCH);
      const { output } = await trainer.evaluate(BATCH);
      const file = join(dir, 'trained.onnx');
      trainer.deployTo(file, { externalData });
      await trainer.release();
      const wanted = JSON.stringify([...output]);
      const { code, stdout, stderr } = run('python3', ['-c', CHECK, file, wanted], { env });
      outcomes.push({
        name: `${name}: ${what}`,
        result: code === 0 ? 'passed' : 'failed',
        detail: (stdout + stderr).trim().slice(-500),
      });
    }
    return outcomes;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
