import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { seededRandom } from '@shoal/core';
import { dense, relu, sequential, Trainer } from '@shoal/training';
import { unzipSync } from 'fflate';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseNpy } from '../data/npy.ts';
import { type Samples, select } from '../data/samples.ts';
import { OnnxEstimator } from '../estimator/onnx.ts';
import { HardExampleSink } from './hard-example-sink.ts';
import { IncrementalInference } from './incremental-inference.ts';
import { IncrementalLearning } from './incremental-learning.ts';
import { labelWithModel } from './labeller.ts';
import { RehearsalBuffer } from './rehearsal-buffer.ts';
import type { CloudSample, SampleVerdict } from './sample-client.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'shoal-il-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

/** Points about the corners of a square; the corner is the class. */
function corners(count: number, seed: number, classes: readonly number[] = [0, 1, 2, 3]): Samples {
  const random = seededRandom(seed);
  const inputs = new Float32Array(count * 2);
  const labels = new BigInt64Array(count);
  for (let i = 0; i < count; i++) {
    const k = classes[i % classes.length] ?? 0;
    labels[i] = BigInt(k);
    inputs.set(
      [(k & 1) * 2 - 1 + 0.2 * random.normal(), (k >> 1) * 2 - 1 + 0.2 * random.normal()],
      2 * i,
    );
  }
  return { inputs, labels, shape: [2], size: count };
}

function model(): Uint8Array {
  return sequential({ input: [2], layers: [dense(16), relu(), dense(4)], random: seededRandom(1) });
}

const options = {
  epochs: 30,
  threads: 1,
  optimizer: { name: 'adam', learningRate: 0.01 },
} as const;

describe('rehearsal', () => {
  test('keeps as many of every class over writing and reading, and forgets no count', () => {
    const first = RehearsalBuffer.open(dir, { capacity: 40 });
    first.offer(corners(300, 1, [0, 0, 0, 0, 0, 1]));
    first.write(dir);
    const second = RehearsalBuffer.open(dir, { capacity: 40 });
    expect(second.size).toBe(first.size);
    second.offer(corners(200, 2, [2, 3]));
    const kept = second.rehearsal()?.samples;
    const counts = [0n, 1n, 2n, 3n].map((k) => kept?.labels.filter((l) => l === k).length);
    expect(counts).toEqual([10, 10, 10, 10]);
    expect(kept?.shape).toEqual([2]);
  });

  test.each([false, true])(
    'frozen parameters stay as they are, rehearsing: %s',
    async (rehearses) => {
      const parameters = async (bytes: Uint8Array): Promise<Map<string, string>> => {
        const { optimizer } = options;
        const trainer = await Trainer.create({
          model: bytes,
          loss: 'softmax-cross-entropy',
          optimizer,
        });
        const all = [...trainer.getParameters()].map(([n, v]) => [n, v.join()] as const);
        await trainer.release();
        return new Map(all);
      };
      const before = await parameters(model());
      const [first = ''] = before.keys();
      const estimator = new OnnxEstimator({
        ...options,
        epochs: 2,
        model: model(),
        freeze: [first],
      });
      const kept = { samples: corners(8, 1) };
      await estimator.train(corners(40, 2), rehearses ? { rehearsal: kept } : {});
      const after = await parameters(estimator.bytes);
      const changed = [...before.keys()].filter((n) => before.get(n) !== after.get(n));
      expect(changed).toEqual([...before.keys()].slice(1));
      await estimator.close();
    },
  );

  test('a file that is none, and samples of another shape, are refused', () => {
    writeFileSync(join(dir, 'rehearsal.npz'), 'nothing');
    expect(() => RehearsalBuffer.open(dir, { capacity: 4 })).toThrow('is not a rehearsal buffer');
    rmSync(join(dir, 'rehearsal.npz'));
    const buffer = RehearsalBuffer.open(dir, { capacity: 4 });
    buffer.offer(corners(4, 1));
    expect(() => buffer.offer({ ...corners(2, 1), shape: [1, 2] })).toThrow('cannot join');
  });

  test.each(['replay', 'der++'] as const)(
    '%s: a class that no new sample has is still known; without rehearsal it is forgotten',
    async (method) => {
      const known = corners(200, 3, [0, 1]);
      const fresh = corners(200, 4, [2, 3]);
      const after = async (rehearse: boolean): Promise<number> => {
        const optimizer = { name: 'adam', learningRate: 0.05 } as const;
        const estimator = new OnnxEstimator({ ...options, optimizer, epochs: 40, model: model() });
        await estimator.train(known);
        await estimator.train(
          fresh,
          rehearse
            ? { rehearsal: { samples: select(known, [0, 1, 2, 3, 4, 5, 6, 7]), method } }
            : {},
        );
        const { accuracy = 0 } = await estimator.evaluate(corners(100, 5, [0, 1]));
        await estimator.close();
        return accuracy;
      };
      expect(await after(false)).toBeLessThan(0.5);
      expect(await after(true)).toBeGreaterThan(0.9);
    },
  );

  test('a worker finds what is kept beside the base model and leaves it beside the new one', async () => {
    const base = new OnnxEstimator({ ...options, model: model() });
    await base.train(corners(200, 6, [0, 1]));
    await base.save(join(dir, 'base/model.onnx'));
    const buffer = RehearsalBuffer.open(join(dir, 'base'), { capacity: 50 });
    buffer.offer(corners(200, 6, [0, 1]));
    buffer.write(join(dir, 'base'));
    const environment = {
      BASE_MODEL_URL: join(dir, 'base/model.onnx'),
      MODEL_URL: join(dir, 'train/1'),
      REHEARSAL_SAMPLES: '50',
    };
    const job = new IncrementalLearning(new OnnxEstimator(options), environment);
    await job.train(corners(200, 7, [2, 3]));
    const made = new OnnxEstimator(options);
    await made.load(join(dir, 'train/1/model.onnx'));
    expect((await made.evaluate(corners(200, 8)))['accuracy']).toBeGreaterThan(0.95);
    const kept = RehearsalBuffer.open(join(dir, 'train/1'), { capacity: 50 }).rehearsal()?.samples;
    expect(new Set(kept?.labels)).toEqual(new Set([0n, 1n, 2n, 3n]));
    await base.close();
    await made.close();
  });
});

describe('guards', () => {
  test('a slice by class, and one with a dataset of its own, get figures of their own', async () => {
    const estimator = new OnnxEstimator({ ...options, model: model() });
    await estimator.train(corners(200, 9, [0, 1]));
    await estimator.save(join(dir, 'm.onnx'));
    const guards = [
      { name: 'threes', label: 3 },
      { name: 'nights', dataset: { name: 'nights' }, metric: 'recall' },
      { name: 'nobody', label: 77 },
    ];
    const job = new IncrementalLearning(new OnnxEstimator(options), {
      MODEL_URLS: join(dir, 'm.onnx'),
      GUARDS: JSON.stringify(guards),
      GUARD_DATASET_URLS: '/nights',
    });
    const [result] = await job.evaluate(corners(100, 10), (path) => {
      expect(path).toBe('/nights');
      return corners(50, 11, [0]);
    });
    const metrics = result?.metrics as Record<string, number>;
    expect(metrics['accuracy@threes']).toBe(0);
    expect(metrics['recall@nights']).toBeGreaterThan(0);
    expect('accuracy@nobody' in metrics).toBe(false);
    await expect(job.evaluate(corners(10, 1))).rejects.toThrow('needs to be told how to read it');
    await estimator.close();
  });
});

describe('hard examples', () => {
  let server: Server;
  let url: string;
  const bodies: { samples: { id: string; data: object }[] }[] = [];
  let answer = 200;
  beforeEach(async () => {
    bodies.length = 0;
    answer = 200;
    server = createServer((request, response) => {
      let text = '';
      request.on('data', (chunk: Buffer) => (text += chunk.toString()));
      request.on('end', () => {
        if (request.url?.endsWith('/hard-examples')) bodies.push(JSON.parse(text) as never);
        response.writeHead(answer).end('{}');
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterEach(() => void server.close());

  const sinkTo = (to: string, maxPending = 100): HardExampleSink =>
    new HardExampleSink({ server: to, namespace: 'n', jobName: 'j', workerName: 'w', maxPending });

  test('go in batches, with the digest of their data as identity', async () => {
    const sink = sinkTo(url);
    for (let i = 0; i < 70; i++) sink.add({ data: { i }, score: 0.5 });
    await sink.close();
    expect(bodies.map((b) => b.samples.length)).toEqual([64, 6]);
    expect(bodies[0]?.samples[0]).toMatchObject({
      id: expect.stringMatching(/^sha256:[0-9a-f]{64}$/) as string,
      data: { i: 0 },
      worker: 'w',
    });
    expect([sink.delivered, sink.dropped, sink.pendingCount]).toEqual([70, 0, 0]);
  });

  test('while nobody takes them the newest are kept; what is refused for good is given up', async () => {
    answer = 503;
    const sink = sinkTo(url, 5);
    for (let i = 0; i < 8; i++) sink.add({ data: { i } });
    await sink.close();
    expect([sink.pendingCount, sink.dropped]).toEqual([5, 3]);
    answer = 400;
    const other = sinkTo(url);
    other.add({ data: { i: 1 } });
    await other.close();
    expect([other.pendingCount, other.dropped, other.delivered]).toEqual([0, 1, 0]);
  });

  test('a service without a cluster judges all the same and sends nothing', async () => {
    const loop = IncrementalInference.fromEnvironment({
      source: {
        HEM_NAME: 'CrossEntropy',
        HEM_PARAMETERS: '[{"key":"threshold_cross_entropy","value":"0.5"}]',
        HARD_EXAMPLES: 'true',
      },
    });
    const sure = { probabilities: Float32Array.of(0.98, 0.01, 0.01), classes: 3, size: 1 };
    const unsure = { probabilities: Float32Array.of(0.4, 0.3, 0.3), classes: 3, size: 1 };
    expect(loop.observe(sure, () => ({ a: 1 }))).toMatchObject({ label: 0, hard: false });
    expect(loop.observe(unsure, () => ({ a: 2 })).hard).toBe(true);
    expect(loop.metrics).toMatchObject({ inferences: 2, hardExamples: 1, hardRatio: 0.5 });
    await loop.close();
  });

  test('with a cluster hard ones are sent with what the model said, and drift is counted', async () => {
    const loop = IncrementalInference.fromEnvironment({
      source: {
        LC_SERVER: url,
        HEM_NAME: 'CrossEntropy',
        HEM_PARAMETERS: '[{"key":"threshold_cross_entropy","value":"0.5"}]',
        HARD_EXAMPLES: 'true',
        DRIFT_NAME: 'PageHinkley',
        DRIFT_PARAMETERS: '[{"key":"threshold","value":"3"}]',
      },
    });
    const said = (p: number) => ({
      probabilities: Float32Array.of(p, (1 - p) / 2, (1 - p) / 2),
      classes: 3,
      size: 1,
    });
    for (let i = 0; i < 100; i++) loop.observe(said(0.98), () => ({ i }));
    for (let i = 0; i < 30; i++) loop.observe(said(0.4), () => ({ late: i }));
    await loop.close();
    expect(loop.metrics).toMatchObject({ driftAlarms: 1, collectedExamples: 30 });
    const samples = bodies.flatMap((b) => b.samples);
    expect(samples).toHaveLength(30);
    expect(samples[0]).toMatchObject({
      data: { late: 0 },
      predicted: 0,
      probabilities: [0.4, 0.3, 0.3],
    });
  });
});

describe('a model that labels', () => {
  const sample = (id: string, data: object, classes = 4): CloudSample => ({
    id,
    node: 'edge-1',
    state: 'new',
    example: {
      id,
      data: data as never,
      probabilities: Array.from({ length: classes }, () => 1 / classes),
      collectedAt: '',
    },
    label: undefined,
    suggestion: undefined,
    confidence: 0,
    labelledBy: '',
    reason: '',
  });
  const rows: Record<string, number[]> = { sure: [0.95, 0.05, 0, 0], unsure: [0.5, 0.5, 0, 0] };
  const estimator = {
    predict: (inputs: Float32Array, size: number) =>
      Promise.resolve({
        probabilities: Float32Array.from(
          Array.from(
            { length: size },
            (_, i) => rows[inputs[i] === 1 ? 'sure' : 'unsure'] ?? [],
          ).flat(),
        ),
        classes: 4,
        size,
      }),
  };
  const run = async (samples: CloudSample[]): Promise<SampleVerdict[]> => {
    const said: SampleVerdict[] = [];
    await labelWithModel({
      client: {
        list: () => Promise.resolve(samples),
        label: (_job, verdicts) => {
          said.push(...verdicts);
          return Promise.resolve(verdicts.length);
        },
      },
      job: 'j',
      name: 'big',
      estimator,
      parse: (data) => {
        if (typeof data['x'] !== 'number') throw new Error('no x');
        return Float32Array.of(data['x']);
      },
      minConfidence: 0.9,
    });
    return said;
  };

  test('labels what it is sure of, suggests the rest, rejects what it cannot read', async () => {
    const said = await run([sample('a', { x: 1 }), sample('b', { x: 2 }), sample('c', {})]);
    expect(said).toEqual([
      { id: 'c', reject: 'cannot be read: no x' },
      { id: 'a', label: 0, confidence: expect.closeTo(0.95) as number },
      { id: 'b', suggestion: 0, confidence: 0.5 },
    ]);
  });

  test('a model with another class count labels nothing', async () => {
    await expect(run([sample('a', { x: 1 }, 3)])).rejects.toThrow(
      'the label model has 4 classes, the served model 3',
    );
  });
});

test('what is kept is a NumPy archive: a zip of arrays', () => {
  const buffer = RehearsalBuffer.open(dir, { capacity: 4 });
  buffer.offer(corners(4, 1));
  buffer.write(dir);
  const files = unzipSync(readFileSync(join(dir, 'rehearsal.npz')));
  expect(Object.keys(files)).toEqual(['x.npy', 'y.npy', 'offered.npy']);
  expect(parseNpy(files['x.npy'] ?? new Uint8Array(), 'x').dims).toEqual([4, 2]);
  expect(
    [...parseNpy(files['y.npy'] ?? new Uint8Array(), 'y').values].toSorted((a, b) => a - b),
  ).toEqual([0, 1, 2, 3]);
});
