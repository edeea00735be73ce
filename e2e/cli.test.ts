import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { seededRandom } from '@shoal/core';
import {
  dense,
  embedding,
  flatten,
  readModel,
  relu,
  sequential,
  writeModel,
} from '@shoal/training';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { stringify } from 'yaml';
import { toNpy } from '../lib/src/data/npy.ts';
import { GraphBuilder, modelOf } from '../training/src/onnx/graph-builder.ts';
import { ClusterFixture, template } from './cluster-fixture.ts';

let c: ClusterFixture;
beforeAll(async () => {
  c = await ClusterFixture.start(1);
});
afterAll(async () => await c.stop());

const shoal = async (args: string, input = ''): ReturnType<ClusterFixture['shoal']> =>
  await c.shoal(args, input);

const pod = {
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: 'hello' },
  ...template('edge-1', [
    'node',
    '-e',
    "console.log('one'); console.log('two'); setInterval(() => {}, 1000)",
  ]),
};

test('apply, get, describe, logs, delete: the life of a pod by the command line', async () => {
  expect(await shoal('apply -f -', stringify(pod))).toEqual({
    code: 0,
    output: 'pods/hello created\n',
  });
  expect((await shoal('apply -f -', stringify(pod))).output).toBe('pods/hello unchanged\n');
  await c.until('the pod', async () => (await c.get('pod', 'hello'))?.status?.phase === 'Running');
  expect((await shoal('get pods')).output).toMatch(
    /NAME\s+READY\s+STATUS[\s\S]*hello\s+1\/1\s+Running/,
  );
  expect((await shoal('get po hello -o yaml')).output).toMatch(/^kind: Pod$/m);
  expect((await shoal('describe pod hello')).output).toMatch(/Events[\s\S]*Started container main/);
  expect((await shoal('logs hello --tail 1')).output).toBe('two\n');
  expect((await shoal('delete pod hello')).output).toBe('pods/hello deleted\n');
  expect(await shoal('delete pod hello')).toEqual({
    code: 1,
    output: 'shoal: pods/hello does not exist in namespace default\n',
  });
});

test('a broken manifest and a misspelt kind say where and what', async () => {
  expect((await shoal('apply -f -', 'a: [1')).output).toMatch(/-, document 1: .*line 1/);
  expect((await shoal('apply -f -', 'a: 1')).output).toMatch(
    /every document needs apiVersion, kind and metadata.name/,
  );
  expect((await shoal('get datast')).output).toMatch(/no kind "datast"; did you mean .*datasets/);
});

test('status, dataset list and help teach', async () => {
  expect((await shoal('status')).output).toMatch(/cloud-1\s+yes[\s\S]*edge-1\s+yes/);
  expect((await shoal('dataset list')).output).toMatch(
    /mnist[\s\S]*heart-disease[\s\S]*thermal-comfort/,
  );
  expect((await shoal('--help')).output).toMatch(
    /Start here:[\s\S]*shoal run joint-inference\/digits/,
  );
});

test('the manager and the controllers answer /healthz, /readyz and /metrics', async () => {
  const text = async (url: string): Promise<string> => await (await fetch(url)).text();
  const { managerUrl } = c.cluster.state;
  expect(await text(`${managerUrl}/healthz`)).toBe('ok');
  expect(await text(`${managerUrl}/readyz`)).toBe('ok');
  expect(await text(`${managerUrl}/metrics`)).toMatch(/^shoal_edge_sessions 2$/m);
  const node = (await c.resources.get('node', '', 'edge-1')) as {
    status: { addresses: { address: string }[] };
  };
  const controller = `http://${node.status.addresses[0]?.address}:9100`;
  expect(await text(`${controller}/metrics`)).toMatch(/^shoal_link_connected 1$/m);
  const bad = await fetch(`${controller}/sedna/workers/a/info`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: '{"name":"b"}',
  });
  expect([bad.status, await bad.text()]).toEqual([
    400,
    expect.stringContaining('is not the one in the path'),
  ]);
  const stray = {
    name: 'a',
    ownerName: 'nothing',
    ownerKind: 'incrementallearningjob',
    kind: 'train',
    status: 'completed',
  };
  const taken = await fetch(`${controller}/sedna/workers/a/info`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(stray),
  });
  expect(await taken.json()).toEqual({ Status: 200, Message: 'OK' });
});

test('a model file is looked into, fine-tuned, and what is wrong is said', async () => {
  const layers = [dense(8), relu(), dense(2)];
  const file = join(c.folder, 'model.onnx');
  writeFileSync(file, sequential({ input: [2], layers, random: seededRandom(1) }));
  const rows = Array.from(
    { length: 200 },
    (_, i) => `${Math.sin(i)},${Math.cos(i)},${Math.sin(i) > 0 ? 1 : 0}`,
  );
  const data = join(c.folder, 'points.csv');
  writeFileSync(data, `x,y,label\n${rows.join('\n')}\n`);
  const { output: looked } = await shoal(`model inspect ${file} --nodes`);
  expect(looked).toMatch(/input {2}input {2}float \[batch, 2\]/);
  expect(looked).toMatch(/layer0\.weight\s+\[8, 2\]\s+16\s+yes/);
  expect(looked).toMatch(/All 4 parameter tensors can be trained/);
  const trained = await shoal(
    `model train ${file} --data ${data} --epochs 20 --learning-rate 0.05`,
  );
  expect(trained.code).toBe(0);
  const result = JSON.parse(trained.output.trim().split('\n').at(-1) ?? '') as {
    trained: string;
    after: { heldOut: { metrics: { accuracy: number } } };
  };
  expect(result.after.heldOut.metrics.accuracy).toBeGreaterThan(0.9);
  expect((await shoal(`model inspect ${result.trained} --json`)).code).toBe(0);
  const wrong = await shoal(`model train ${file} --data ${data} --epochs 0 --optimizer lion`);
  expect(wrong.output).toMatch(
    /--epochs must be a whole number ≥ 1, got "0"; --optimizer must be one of sgd/,
  );
  const nowhere = await shoal(`model train ${file} --data ${data} --out /nowhere/at/all.onnx`);
  expect(nowhere.output).toMatch(/cannot be written to \/nowhere\/at\/all\.onnx/);
  expect(nowhere.output).not.toMatch(/epoch 1/);
  const far = join(c.folder, 'far.onnx');
  const lost = await shoal(
    `model train ${file} --data ${data} --optimizer sgd --learning-rate 1e30 --out ${far}`,
  );
  expect(lost.output).toMatch(/training stopped with the last good parameters/);
  // What came of the steps before is kept; without any there is nothing new to keep.
  expect(existsSync(far)).toBe(!/at step 1;/.test(lost.output));
  writeFileSync(data, 'x,y,label\n1,2\n');
  expect((await shoal(`model train ${file} --data ${data}`)).output).toMatch(
    /points\.csv line 2 has 2 columns, the head has 3/,
  );
  expect((await shoal(`model inspect ${data}`)).output).toMatch(/shoal: not an ONNX model/);
  expect((await shoal('model train --help')).output).toMatch(/sgd, adam, adamw, rmsprop, adagrad/);
});

test('tokens, and models with a fixed batch, are fine-tuned as they are', async () => {
  const random = seededRandom(2);
  const layers = [embedding(10, 3), flatten(), dense(2)];
  const tokens = join(c.folder, 'tokens.onnx');
  writeFileSync(tokens, sequential({ input: [4], inputType: 'int64', layers, random }));
  const rows = Array.from({ length: 200 }, () => Array.from({ length: 4 }, () => random.int(10)));
  const data = join(c.folder, 'tokens.csv');
  const lines = rows.map((r) => [...r, (r[0] ?? 0) > 4 ? 1 : 0].join(','));
  writeFileSync(data, `a,b,c,d,label\n${lines.join('\n')}\n`);
  const fixed = readModel(sequential({ input: [4], layers: [dense(2)], random }));
  for (const { type } of [...(fixed.graph?.input ?? []), ...(fixed.graph?.output ?? [])]) {
    const shape = type?.value.case === 'tensorType' ? type.value.value.shape : undefined;
    const [first] = shape?.dim ?? [];
    if (first) first.value = { case: 'dimValue', value: 8n };
  }
  const eights = join(c.folder, 'eights.onnx');
  writeFileSync(eights, writeModel(fixed));
  for (const [file, samples] of [
    [tokens, 180],
    [eights, 176],
  ] as const) {
    const { output, code } = await shoal(
      `model train ${file} --data ${data} --epochs 20 --learning-rate 0.05`,
    );
    expect(code).toBe(0);
    const told = JSON.parse(output.trim().split('\n').at(-1) ?? '') as {
      samples: number;
      after: { train: { metrics: { accuracy: number } } };
    };
    expect(told.samples).toBe(samples);
    expect(told.after.train.metrics.accuracy).toBeGreaterThan(0.9);
  }
});

/** A word of ten and two numbers → two classes: by the word's row plus a product with the numbers. */
function twoInputModel(): Uint8Array {
  const random = seededRandom(5);
  const normal = (length: number): Float32Array =>
    Float32Array.from({ length }, () => random.normal() * 0.3);
  const builder = new GraphBuilder('');
  const word = builder.input('word', ['batch', 1], 7);
  const numbers = builder.input('numbers', ['batch', 2]);
  const rows = builder.node('Gather', [builder.floats(normal(20), [10, 2]), word], { axis: 0 });
  const of = builder.node('Squeeze', [rows, builder.ints([1])]);
  const product = builder.node('MatMul', [numbers, builder.floats(normal(4), [2, 2])]);
  builder.output(builder.node('Add', [of, product], {}, 'scores'), ['batch', 2]);
  return writeModel(modelOf(builder.graph('two'), 17));
}

/** Tokens `[batch, words]` → their own class, as rows of an identity matrix. */
function namedClasses(): Uint8Array {
  const builder = new GraphBuilder('');
  const input = builder.input('input', ['batch', 'words'], 7);
  const eye = builder.floats(Float32Array.of(4, 0, 0, 0, 4, 0, 0, 0, 4), [3, 3]);
  builder.output(builder.node('Gather', [eye, input], { axis: 0 }, 'y'), ['batch', 'words', 3]);
  return writeModel(modelOf(builder.graph('named'), 17));
}

test('a model with several inputs gets its columns in their order; tokens are told apart', async () => {
  const random = seededRandom(6);
  const file = join(c.folder, 'two.onnx');
  writeFileSync(file, twoInputModel());
  const rows = Array.from({ length: 300 }, () => {
    const [word, a, b] = [random.int(10), random.normal(), random.normal()];
    return [word, a, b, (word > 4 ? 1 : -1) + a - b > 0 ? 1 : 0].join(',');
  });
  const data = join(c.folder, 'two.csv');
  writeFileSync(data, `word,a,b,label\n${rows.join('\n')}\n`);
  const train = `model train ${file} --data ${data} --epochs 30 --learning-rate 0.05`;
  const { output } = await shoal(train);
  const told = JSON.parse(output.trim().split('\n').at(-1) ?? '') as {
    after: { heldOut: { metrics: { accuracy: number } } };
  };
  expect(told.after.heldOut.metrics.accuracy).toBeGreaterThan(0.9);
  writeFileSync(data, 'word,a,label\n1,2,0\n');
  expect((await shoal(train)).output).toMatch(
    /a sample of .*two\.csv has 2 values, the inputs take 3, in this order: word 1, numbers 2/,
  );
  const layers = [embedding(10, 3)];
  const tokens = join(c.folder, 'tagger.onnx');
  writeFileSync(tokens, sequential({ input: [4], inputType: 'int64', layers, random }));
  writeFileSync(data, 'a,b,c,d,label\n1,2,3,4,0\n');
  const tag = `model train ${tokens} --data ${data} --validation 0`;
  expect((await shoal(tag)).output).toMatch(/say where its classes are, classAxis: 'last' \(3\)/);
  expect((await shoal(`${tag} --class-axis middle`)).output).toMatch(
    /--class-axis must be last or second, got "middle"/,
  );
  expect((await shoal(`${tag} --class-axis last --ignore-index x`)).output).toMatch(
    /--ignore-index must be a whole number, got "x"/,
  );
  expect((await shoal(`${tag} --loss huber --ignore-index 3`)).output).toMatch(
    /--ignore-index goes with --loss softmax-cross-entropy only/,
  );
  const folder = join(c.folder, 'tags');
  mkdirSync(folder);
  const x = Array.from({ length: 200 }, () => random.int(10));
  writeFileSync(join(folder, 'x.npy'), toNpy([50, 4], Float32Array.from(x)));
  const y = Float32Array.from(x, (v, i) => (i % 4 === 3 ? -100 : v % 3));
  writeFileSync(join(folder, 'y.npy'), toNpy([50, 4], y));
  const tagged = await shoal(
    `model train ${tokens} --data ${folder} --class-axis last --ignore-index -100 --epochs 30 --learning-rate 0.1`,
  );
  // Five places of one sample are right, one of the other is wrong: 5 of 6, whatever the batches.
  const fixed = join(c.folder, 'fixed.onnx');
  writeFileSync(fixed, namedClasses());
  writeFileSync(
    join(folder, 'x.npy'),
    toNpy([2, 5], Float32Array.of(0, 1, 2, 0, 1, 2, 0, 0, 0, 0)),
  );
  const sure = Float32Array.of(0, 1, 2, 0, 1, 0, -100, -100, -100, -100);
  writeFileSync(join(folder, 'y.npy'), toNpy([2, 5], sure));
  for (const size of [1, 2]) {
    const still = `--epochs 1 --optimizer sgd --learning-rate 1e-9 --batch-size ${size} --validation 0`;
    const run = `model train ${fixed} --data ${folder} --class-axis last --ignore-index -100 ${still}`;
    expect((await shoal(run)).output).toMatch(/no fixed size; give it one: --dimension words=SIZE/);
    const { output: scored } = await shoal(`${run} --dimension words=5`);
    expect(scored).toMatch(/"accuracy":0\.8333/);
  }
  expect(tagged.output).toMatch(/"heldOut":\{"loss":[\d.]+,"metrics":\{"accuracy":1\}/);
});
