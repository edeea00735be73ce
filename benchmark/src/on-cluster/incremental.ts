import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { ShoalError } from '@shoal/core';
import type { Estimator, IncrementalResult, Samples } from '@shoal/lib';
import { RehearsalBuffer, slice } from '@shoal/lib';
import { textOf } from '../config/config-node.ts';
import { accuracyOf } from '../metrics/classification.ts';
import { sampleBytes } from '../paradigms/case-context.ts';
import { rehearsed, roundsOf } from '../paradigms/incremental.ts';
import type { CurvePoint, Observations, TestResults } from '../paradigms/observations.ts';
import { type ClusterCase, container, edgeOf, hasAddress, object, until } from './access.ts';
import type { Reference } from './incremental-parts.ts';

const PORT = 8080;
const BATCH = 50;
/** Behind every hard sample stands a line that says which samples judge: half and half. */
const TRAIN_SHARE = 0.5;

interface Status {
  readonly round?: number;
  readonly deployedModel?: string;
  readonly conditions?: readonly {
    readonly stage: string;
    readonly type: string;
    readonly message?: string;
  }[];
}

/** The first model where it is trained from and where it is served, with what it keeps. */
async function putModels(c: ClusterCase): Promise<void> {
  const { access, context, data, name } = c;
  const model = await context.create<Estimator>('basemodel');
  if (data.initial) await model.train(data.initial, { signal: context.signal });
  const initial = access.nodePath(access.cloudNode, `/bench/${name}/initial/model.onnx`);
  await model.save(initial);
  await model.save(access.nodePath(edgeOf(c), `/bench/${name}/deployed.onnx`));
  const capacity = rehearsed(context);
  if (data.initial && capacity > 0) {
    const kept = RehearsalBuffer.empty({ capacity });
    kept.offer(data.initial);
    kept.write(dirname(initial));
  }
  await model.close();
}

/** How the inference worker is reached. */
function serviceOf(name: string): object {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name },
    spec: {
      selector: {
        'incrementallearningjob.sedna.io/name': name,
        'incrementallearningjob.sedna.io/worker-type': 'inference',
      },
      ports: [{ name: 'http', port: 80, targetPort: PORT }],
    },
  };
}

function objectsOf(c: ClusterCase): object[] {
  const { access, context, data, name } = c;
  const { modelEval } = context.case.testEnv;
  const choice = context.choice('hard_example_mining');
  const env = [
    { name: 'SHOAL_BENCH_SHAPE', value: JSON.stringify(data.test.shape) },
    { name: 'REHEARSAL_SAMPLES', value: String(rehearsed(context)) },
  ];
  const worker = (file: string, nodeName: string, more: object = {}): object => ({
    spec: { nodeName, containers: [container(file, c, { ...more, env })] },
  });
  const condition = (metric: string, operator: string, threshold: number): object => ({
    condition: { operator, threshold, metric },
  });
  const serving = {
    ports: [{ containerPort: PORT }],
    readinessProbe: { httpGet: { path: '/healthz', port: PORT }, periodSeconds: 1 },
  };
  return [
    object('Dataset', name, {
      url: `/bench/${name}/hard.jsonl`,
      format: 'jsonl',
      nodeName: access.cloudNode,
    }),
    object('Model', `${name}-initial`, {
      url: `/bench/${name}/initial/model.onnx`,
      format: 'onnx',
    }),
    object('Model', `${name}-deployed`, { url: `/bench/${name}/deployed.onnx`, format: 'onnx' }),
    object('IncrementalLearningJob', name, {
      dataset: { name, trainProb: TRAIN_SHARE },
      initialModel: { name: `${name}-initial` },
      outputDir: `/bench/${name}/output`,
      trainSpec: {
        trigger: { checkPeriodSeconds: 1, ...condition('num_of_samples', '>=', 1) },
        template: worker('train-hard.ts', access.cloudNode),
      },
      evalSpec: { template: worker('evaluate-held.ts', access.cloudNode) },
      deploySpec: {
        model: { name: `${name}-deployed`, hotUpdateEnabled: true, pollPeriodSeconds: 1 },
        trigger: condition(`${modelEval.metric}_delta`, modelEval.operator, modelEval.threshold),
        hardExampleMining: {
          name: choice?.name ?? 'CrossEntropy',
          parameters: Object.entries(choice?.hyperparameters ?? {}).map(([key, value]) => ({
            key,
            value: textOf(value),
          })),
        },
        template: worker('infer-rounds.ts', edgeOf(c), serving),
      },
    }),
    serviceOf(name),
  ];
}

/** The served model behind its address. */
class Served {
  readonly #url: string;
  readonly #signal: AbortSignal;

  constructor(url: string, signal: AbortSignal) {
    this.#url = url;
    this.#signal = signal;
  }

  async #request(path: string, init: RequestInit = {}): Promise<string> {
    const signal = AbortSignal.any([this.#signal, AbortSignal.timeout(60_000)]);
    const response = await fetch(`${this.#url}${path}`, { ...init, signal });
    const text = await response.text();
    if (response.ok) return text;
    throw new ShoalError(
      'unavailable',
      `${this.#url}${path} answers HTTP ${response.status}: ${text.slice(0, 300)}`,
    );
  }

  async ask(samples: Samples): Promise<IncrementalResult[]> {
    const answers: IncrementalResult[] = [];
    const width = samples.inputs.length / Math.max(1, samples.size);
    for (let at = 0; at < samples.size; at += BATCH) {
      const part = slice(samples, at, at + BATCH);
      const data = Array.from({ length: part.size }, (_, i) => [
        ...part.inputs.subarray(i * width, (i + 1) * width),
      ]);
      const body = JSON.stringify({ data });
      const headers = { 'Content-Type': 'application/json' };
      const text = await this.#request('/predict', { method: 'POST', headers, body });
      answers.push(...(JSON.parse(text) as { result: IncrementalResult[] }).result);
    }
    return answers;
  }

  /** Models that were taken since it began to serve. */
  async swaps(): Promise<number> {
    const found = /model_?swaps\D+(\d+)/i.exec(await this.#request('/metrics'));
    return Number(found?.[1] ?? 0);
  }
}

function statusOf(o: { readonly status?: unknown }): Status {
  return (o.status ?? {}) as Status;
}

/** Waits until a round is over. @returns Whether its candidate is served now. */
async function roundOver(c: ClusterCase, before: Status): Promise<boolean> {
  const job = { kind: 'IncrementalLearningJob', name: c.name, what: 'the next round' };
  const ended = statusOf(
    await until(c, job, (o) => {
      const { round = 1, conditions } = statusOf(o);
      const last = conditions?.at(-1);
      if (last?.type === 'Failed')
        throw new ShoalError('failed_precondition', `${last.stage} failed: ${last.message}`);
      return round > (before.round ?? 1);
    }),
  );
  return ended.deployedModel !== before.deployedModel;
}

async function swapped(c: ClusterCase, served: Served, wanted: number): Promise<void> {
  const deadline = Date.now() + c.timeLimitSeconds * 1000;
  while ((await served.swaps()) < wanted) {
    if (Date.now() > deadline)
      throw new ShoalError('deadline_exceeded', 'the better model was not served in time');
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function results(served: Served, test: Samples): Promise<TestResults> {
  const predicted = Int32Array.from(await served.ask(test), (a) => a.label);
  return { labels: Int32Array.from(test.labels, Number), predicted, classes: 0 };
}

async function course(c: ClusterCase, file: string): Promise<Observations> {
  const { access, context, data, name } = c;
  const job = 'IncrementalLearningJob';
  await until(c, { kind: 'Endpoints', name, what: 'a ready worker' }, hasAddress);
  const service = await access.get('Service', name);
  const { clusterIP = '' } = (service?.spec ?? {}) as { clusterIP?: string };
  const served = new Served(`http://${clusterIP}`, context.signal);
  const rounds = roundsOf(context.case, data);
  const sums = { inferences: 0, uploads: 0, bytesDown: 0, updates: 0 };
  const bytes = sampleBytes(data.test);
  const curve: CurvePoint[] = [];
  let test = await results(served, data.test);
  for (const [r, part] of rounds.entries()) {
    context.progress(r / rounds.length, part.name);
    const before = statusOf((await access.get(job, name)) ?? {});
    const answers = await served.ask(part.train);
    const hard = answers.flatMap((a, i) => (a.hard ? [i] : []));
    sums.inferences += answers.length;
    sums.uploads += hard.length;
    const lines: Reference[] = [
      ...hard.map((i) => ({ round: r + 1, hard: i })),
      ...hard.map(() => ({ round: r + 1, held: true as const })),
    ];
    appendFileSync(file, lines.map((l) => `${JSON.stringify(l)}\n`).join(''));
    if (hard.length > 0 && (await roundOver(c, before))) {
      await swapped(c, served, ++sums.updates);
      const model = access.nodePath(edgeOf(c), `/bench/${name}/deployed.onnx`);
      sums.bytesDown += readFileSync(model).length;
      test = await results(served, data.test);
    }
    curve.push({
      step: r + 1,
      value: accuracyOf(test) ?? 0,
      bytes: sums.uploads * bytes + sums.bytesDown,
      virtualSeconds: Number.NaN,
    });
  }
  return {
    test,
    curve,
    inferences: sums.inferences,
    uploads: sums.uploads,
    bytesUp: sums.uploads * bytes,
    bytesDown: sums.bytesDown,
    extra: { modelUpdates: sums.updates },
  };
}

/**
 * An IncrementalLearningJob: the edge is asked about the samples of a round over HTTP, what it finds hard
 * becomes lines of the job's dataset with their labels, and the job trains, evaluates and swaps by itself.
 */
export async function incrementalOnCluster(c: ClusterCase): Promise<Observations> {
  const { access, context, name } = c;
  const choice = context.choice('hard_example_mining');
  if (choice?.url !== undefined)
    throw new ShoalError(
      'unsupported',
      `hard example mining "${choice.name}" is a file of yours; a job can name built-in ones only. It runs in processes`,
    );
  await putModels(c);
  const file = access.nodePath(access.cloudNode, `/bench/${name}/hard.jsonl`);
  writeFileSync(file, '');
  await access.apply(objectsOf(c));
  try {
    return await course(c, file);
  } finally {
    await access.remove('IncrementalLearningJob', name);
    await access.remove('Service', name);
    await access.remove('Dataset', name);
    for (const model of ['initial', 'deployed']) await access.remove('Model', `${name}-${model}`);
  }
}
