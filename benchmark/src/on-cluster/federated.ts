import { readFileSync, writeFileSync } from 'node:fs';
import { ShoalError } from '@shoal/core';
import { OnnxEstimator } from '@shoal/lib';
import { textOf } from '../config/config-node.ts';
import { type Share, shareOut } from '../data/share-out.ts';
import { testResults } from '../paradigms/case-context.ts';
import type { FederatedBase } from '../paradigms/federated.ts';
import type { CurvePoint, Observations, ParticipantScore } from '../paradigms/observations.ts';
import { LOCAL, POOLED } from '../paradigms/slots.ts';
import { type ClusterCase, container, object, until } from './access.ts';

type Round = Readonly<Record<string, string | number | undefined>>;

interface Status {
  readonly phase?: string;
  readonly currentRound?: number;
  readonly rounds?: readonly Round[];
  readonly conditions?: readonly { readonly message?: string }[];
}

function jobOf(c: ClusterCase, participants: number, model: string): object {
  const { algorithm, testEnv } = c.context.case;
  const { federation } = algorithm;
  const choice = c.context.choice('aggregation');
  const parameters = Object.entries(choice?.hyperparameters ?? {}).map(([key, value]) => ({
    key,
    value: textOf(value),
  }));
  const { name: compression, share } = federation.compression;
  const workers = Array.from({ length: participants }, (_, i) => ({
    dataset: { name: `${c.name}-p${i}` },
    template: { spec: { containers: [container('participant.ts', c)] } },
  }));
  return object('FederatedLearningJob', c.name, {
    rounds: testEnv.rounds,
    strategy: { name: choice?.name ?? 'FedAvg', parameters },
    localTraining: {
      epochs: federation.localEpochs,
      batchSize: federation.batchSize,
      learningRate: federation.learningRate,
    },
    ...(compression === 'none'
      ? {}
      : {
          compression: share === undefined ? { name: compression } : { name: compression, share },
        }),
    ...(federation.selected > 0 ? { selection: { count: federation.selected } } : {}),
    aggregationWorker: {
      model: { name: model },
      template: {
        spec: {
          nodeName: c.access.cloudNode,
          containers: [container('aggregator.ts', c)],
        },
      },
    },
    trainingWorkers: workers,
  });
}

/** Rounds as the aggregator saw them; what the first round started from is not a point. */
function curveOf({ rounds = [] }: Status): CurvePoint[] {
  let bytes = 0;
  return rounds.map((r, i) => {
    bytes += Number(r['bytesUp'] ?? 0) + Number(r['bytesDown'] ?? 0);
    const value = Number.parseFloat(String(r['accuracy'] ?? 'NaN')) / 100;
    return { step: i, value: Number.isNaN(value) ? 0 : value, bytes, virtualSeconds: Number.NaN };
  });
}

/** Files and objects of a job; the samples do not travel, only the number of the participant does. */
async function putJob(c: ClusterCase, shares: readonly Share[], path: string): Promise<void> {
  const { access, context, name } = c;
  const { model, loss, optimizer } = await context.create<FederatedBase>('basemodel');
  if (loss !== undefined || optimizer !== undefined)
    throw new ShoalError(
      'unsupported',
      'a FederatedLearningJob trains with cross-entropy and SGD; a loss or optimizer of your own runs in processes only',
    );
  for (const node of [access.cloudNode, ...access.edgeNodes])
    writeFileSync(access.nodePath(node, path), model);
  const datasets = shares.map((_, i) => {
    const nodeName = access.edgeNodes[i % access.edgeNodes.length] ?? access.cloudNode;
    const url = `/bench/${name}/p${i}.jsonl`;
    writeFileSync(access.nodePath(nodeName, url), `${JSON.stringify({ participant: i })}\n`);
    return object('Dataset', `${name}-p${i}`, { url, format: 'jsonl', nodeName });
  });
  const job = jobOf(c, shares.length, name);
  await access.apply([object('Model', name, { url: path, format: 'onnx' }), ...datasets, job]);
}

async function succeeded(c: ClusterCase): Promise<Status> {
  const { context, name } = c;
  const { rounds } = context.case.testEnv;
  const job = { kind: 'FederatedLearningJob', name, what: 'Succeeded' };
  const ended = await until(c, job, ({ status }) => {
    const { phase, currentRound = 0, conditions } = (status ?? {}) as Status;
    context.progress(currentRound / (rounds + 1), `round ${currentRound}`);
    if (phase === 'Failed')
      throw new ShoalError('failed_precondition', `the job failed: ${conditions?.at(-1)?.message}`);
    return phase === 'Succeeded';
  });
  return (ended.status ?? {}) as Status;
}

function expectStrategy(c: ClusterCase): void {
  const choice = c.context.choice('aggregation');
  if (choice?.url !== undefined || choice?.name === POOLED || choice?.name === LOCAL)
    throw new ShoalError(
      'unsupported',
      `aggregation "${choice.name}" is no strategy a FederatedLearningJob can name; it runs in processes only`,
    );
}

/**
 * A FederatedLearningJob: an aggregator in the cloud, a pod for every participant on the edges. Each pod
 * deals the samples out as the seed says and keeps its own.
 */
export async function federatedOnCluster(c: ClusterCase): Promise<Observations> {
  const { access, context, data, name } = c;
  const { testEnv, algorithm, seed } = context.case;
  expectStrategy(c);
  const shares = shareOut(data, testEnv.clients, algorithm.partition ?? testEnv.partition, seed);
  const path = `/bench/${name}/model.onnx`;
  try {
    await putJob(c, shares, path);
    const status = await succeeded(c);
    const bytes = readFileSync(access.nodePath(access.cloudNode, path));
    const estimator = new OnnxEstimator({ model: bytes, threads: 1 });
    const test = await testResults(estimator, data.test);
    const participants: ParticipantScore[] = [];
    for (const { name: who, train, test: own = train } of shares) {
      const { accuracy = 0 } = await estimator.evaluate(own);
      participants.push({ name: who, samples: train.size, accuracy });
    }
    await estimator.close();
    const sum = (field: string): number =>
      (status.rounds ?? []).reduce((n, r) => n + Number(r[field] ?? 0), 0);
    const [bytesUp, bytesDown] = [sum('bytesUp'), sum('bytesDown')];
    return { test, participants, curve: curveOf(status), bytesUp, bytesDown };
  } finally {
    await access.remove('FederatedLearningJob', name);
    for (const i of shares.keys()) await access.remove('Dataset', `${name}-p${i}`);
    await access.remove('Model', name);
  }
}
