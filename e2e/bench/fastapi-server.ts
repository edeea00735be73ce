import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A big model as Sedna serves it: FastAPI, one request one run of the model, JSON. */
const SERVER = `
import sys, numpy, onnxruntime, uvicorn
from typing import List
from fastapi import FastAPI
from pydantic import BaseModel

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
shape = [d if isinstance(d, int) else -1 for d in session.get_inputs()[0].shape[1:]]
app = FastAPI()

class Item(BaseModel):
    data: List

@app.post("/digits/predict")
def predict(item: Item):
    x = numpy.asarray(item.data, dtype=numpy.float32).reshape([len(item.data), *shape])
    logits = session.run(None, {name: x})[0]
    e = numpy.exp(logits - logits.max(axis=1, keepdims=True))
    return {"result": (e / e.sum(axis=1, keepdims=True)).tolist()}

@app.get("/healthz")
def healthz():
    return {"status": "ok"}

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
`;
const PORT = 18_233;

export interface FastApiServer {
  readonly url: string;
  stop(): void;
}

/** Starts it; undefined when there is no Python with FastAPI and ONNX Runtime (SHOAL_PYTHON names one). */
export async function startFastApi(model: Uint8Array): Promise<FastApiServer | undefined> {
  const python = process.env['SHOAL_PYTHON'] ?? 'python3';
  const needs = 'import fastapi, uvicorn, onnxruntime, numpy';
  if (spawnSync(python, ['-c', needs], { stdio: 'ignore' }).status !== 0) return undefined;
  const dir = mkdtempSync(join(tmpdir(), 'shoal-fastapi-'));
  const file = join(dir, 'model.onnx');
  writeFileSync(file, model);
  const child: ChildProcess = spawn(python, ['-c', SERVER, file, String(PORT)], {
    stdio: 'inherit',
  });
  const stop = (): void => {
    child.kill('SIGKILL');
    rmSync(dir, { recursive: true, force: true });
  };
  const url = `http://127.0.0.1:${PORT}`;
  for (let i = 0; i < 300; i++) {
    const up = await fetch(`${url}/healthz`).then(
      (r) => r.ok,
      () => false,
    );
    if (up) return { url, stop };
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  stop();
  return undefined;
}
