import { readFileSync, writeFileSync } from 'node:fs';
import { ShoalError } from '@shoal/core';
import { OnnxEstimator } from '@shoal/lib';
import { textOf } from '../config/config-node.ts';
import { shareOut } from '../data/share-out.ts';
import { testResults } from '../paradigms/case-context.ts';
import { accuracyFor, type FederatedBase, labelledOnly } from '../paradigms/federated.ts';
import { LOCAL, POOLED } from '../paradigms/names.ts';
import type { CurvePoint, Observations, ParticipantScore } from '../paradigms/observations.ts';
import { type ClusterCase, container, edgeOf, object, removeAll, until } from './access.ts';

type Round = Readonly<Record<string, string | number | undefined>>;

interface Status {
  readonly phase?: string;
  readonly currentRound?: number;
  readonly bytesUp?: number;
  readonly bytesDown?: number;
  readonly rounds?: readonly Round[];
  readonly conditions?: readonly { readonly message?: string }[];
}

/** A federation of a case: a name of its own, what each participant is told, and the seed it runs by. */
export interface Federation {
  readonly name: string;
  /** By participant: what its pod finds in its dataset. The samples themselves do not travel. */
  readonly participants: readonly object[];
  readonly seed: number;
}

function jobOf(c: ClusterCase, { name, participants, seed }: Federation): object {
  const { algorithm, testEnv } = c.context.case;
  const { federation } = algorithm;
  const choice = c.context.choice('aggregation');
  const parameters = Object.entries(choice?.hyperparameters ?? {}).map(([key, value]) => ({
    key,
    value: textOf(value),
  }));
  const { name: compression, share } = federation.compression;
  const workers = participants.map((_, i) => ({
    dataset: { name: `${name}-p${i}` },
    template: { spec: { containers: [container('participant.ts', c)] } },
  }));
  return object('FederatedLearningJob', name, {
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
      model: { name },
      template: {
        spec: {
          nodeName: c.access.cloudNode,
          containers: [
            container('aggregator.ts', c, {
              env: [{ name: 'SHOAL_BENCH_SEED', value: String(seed) }],
            }),
          ],
        },
      },
    },
    trainingWorkers: workers,
  });
}

/** Rounds as the aggregator saw them; what the first round started from is not a point. */
function curveOf(rounds: readonly Round[]): CurvePoint[] {
  let bytes = 0;
  return rounds.map((r) => {
    bytes += Number(r['bytesUp'] ?? 0) + Number(r['bytesDown'] ?? 0);
    const value = Number.parseFloat(String(r['accuracy'] ?? 'NaN')) / 100;
    return {
      step: Number(r['round']) - 1,
      value: Number.isNaN(value) ? 0 : value,
      bytes,
      virtualSeconds: Number.NaN,
    };
  });
}

/** Where the model of a federation is, on every node. */
function modelPath({ name }: Federation): string {
  return `/bench/${name}/model.onnx`;
}

/** The model all start from. @throws ShoalError `unsupported` for a loss or optimizer of its own. */
export async function sharedModel({ context }: ClusterCase): Promise<Uint8Array> {
  const { model, loss, optimizer } = await context.create<FederatedBase>('basemodel');
  if (loss !== undefined || optimizer !== undefined)
    throw new ShoalError(
      'unsupported',
      'a FederatedLearningJob trains with cross-entropy and SGD; a loss or optimizer of your own runs in processes only',
    );
  return model;
}

/** Files and objects of a job. */
async function putJob(c: ClusterCase, of: Federation, model: Uint8Array): Promise<void> {
  const { access } = c;
  const path = modelPath(of);
  for (const node of [access.cloudNode, ...access.edgeNodes])
    writeFileSync(access.nodePath(node, path), model);
  const datasets = of.participants.map((told, i) => {
    const nodeName = edgeOf(c, i);
    const url = `/bench/${of.name}/p${i}.jsonl`;
    writeFileSync(access.nodePath(nodeName, url), `${JSON.stringify(told)}\n`);
    return object('Dataset', `${of.name}-p${i}`, { url, format: 'jsonl', nodeName });
  });
  const shared = object('Model', of.name, { url: path, format: 'onnx' });
  await access.apply([shared, ...datasets, jobOf(c, of)]);
}

interface FederationResult {
  /** The last fifty. */
  readonly rounds: readonly Round[];
  readonly bytesUp: number;
  readonly bytesDown: number;
  readonly model: Buffer;
}

/** Runs a federation as a job from a model; resolves with its rounds and the model they made. */
export async function federationOnCluster(
  c: ClusterCase,
  of: Federation,
  from: { readonly model: Uint8Array; readonly onProgress: (share: number, text: string) => void },
): Promise<FederationResult> {
  const { access } = c;
  const made = [
    ['FederatedLearningJob', of.name] as const,
    ...of.participants.map((_, i) => ['Dataset', `${of.name}-p${i}`] as const),
    ['Model', of.name] as const,
  ];
  try {
    // One that was killed may have left its job, ended or not.
    await removeAll(c, made);
    await putJob(c, of, from.model);
    const status = await succeeded(c, of.name, from.onProgress);
    const { rounds = [], bytesUp = 0, bytesDown = 0 } = status;
    const model = readFileSync(access.nodePath(access.cloudNode, modelPath(of)));
    return { rounds, bytesUp, bytesDown, model };
  } finally {
    await removeAll(c, made);
  }
}

async function succeeded(
  c: ClusterCase,
  name: string,
  onProgress: (share: number, text: string) => void,
): Promise<Status> {
  const { rounds } = c.context.case.testEnv;
  const job = { kind: 'FederatedLearningJob', name, what: 'Succeeded' };
  const ended = await until(c, job, ({ status }) => {
    const { phase, currentRound = 0, conditions } = (status ?? {}) as Status;
    onProgress(currentRound / (rounds + 1), `round ${currentRound}`);
    if (phase === 'Failed')
      throw new ShoalError('failed_precondition', `the job failed: ${conditions?.at(-1)?.message}`);
    return phase === 'Succeeded';
  });
  return (ended.status ?? {}) as Status;
}

/** @throws ShoalError `unsupported` for what a job cannot name. */
export function expectStrategy(c: ClusterCase): void {
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
  const { context, data, name } = c;
  const { testEnv, algorithm, seed } = context.case;
  expectStrategy(c);
  const all = shareOut(data, testEnv.clients, algorithm.partition ?? testEnv.partition, seed);
  const shares = labelledOnly(all, algorithm.labelRatio, seed);
  const participants = shares.map((_, participant) => ({ participant }));
  const { rounds, model, bytesUp, bytesDown } = await federationOnCluster(
    c,
    { name, participants, seed },
    { model: await sharedModel(c), onProgress: context.progress },
  );
  const estimator = new OnnxEstimator({ model, threads: 1 });
  const test = await testResults(estimator, data.test);
  const scores: ParticipantScore[] = [];
  for (const share of shares) {
    const accuracy = await accuracyFor(share, test, async (own) => {
      const { accuracy: figure = Number.NaN } = await estimator.evaluate(own);
      return figure;
    });
    scores.push({ name: share.name, samples: share.train.size, accuracy });
  }
  await estimator.close();
  return { test, participants: scores, curve: curveOf(rounds), bytesUp, bytesDown };
}
