import { seededRandom } from '@shoal/core';
import {
  type CloudModel,
  configureMiner,
  type Estimator,
  type HardExampleMiner,
  JointInference,
  type JointInferenceResult,
  type MinerParameters,
  slice,
  type Verdict,
} from '@shoal/lib';
import { type CaseContext, sampleBytes, testResults } from './case-context.ts';
import { ORACLE } from './names.ts';
import type { Observations, TestResults } from './observations.ts';

/** Bytes of an answer: one float32 for each class. */
const ANSWER_BYTES = 4;

interface Models {
  readonly edge: Estimator;
  readonly cloud: Estimator;
  readonly cloudSays: TestResults;
}

/** A miner that judges a sample before a model has seen it. */
interface Router {
  readonly route: (sample: Float32Array) => Verdict;
}

/** Hard is what the edge gets wrong and the cloud right: what no miner can know. */
async function oracle(models: Models, context: CaseContext): Promise<HardExampleMiner> {
  const { labels, predicted } = await testResults(models.edge, context.data.test);
  let at = 0;
  return {
    name: ORACLE,
    judge: () => {
      const i = at++;
      const hard = predicted[i] !== labels[i] && models.cloudSays.predicted[i] === labels[i];
      return { hard, score: hard ? 0 : 1, threshold: 0.5 };
    },
  };
}

async function minerOf(
  models: Models,
  context: CaseContext,
): Promise<HardExampleMiner | (HardExampleMiner & Router)> {
  const choice = context.choice('hard_example_mining');
  if (choice?.url !== undefined) return await context.create('hard_example_mining');
  if (choice?.name === ORACLE) return await oracle(models, context);
  const parameters = (choice?.hyperparameters ?? {}) as MinerParameters;
  const random = seededRandom(context.case.seed).fork('miner');
  return configureMiner(choice?.name ?? 'CrossEntropy', parameters, { random });
}

/** Trains both models, unless they come trained. */
async function prepare(context: CaseContext): Promise<Models> {
  const [edge, cloud] = [
    await context.create<Estimator>('edgemodel'),
    await context.create<Estimator>('cloudmodel'),
  ];
  const { train, test } = context.data;
  for (const [i, model] of [edge, cloud].entries()) {
    if (train.size === 0) continue;
    await model.train(train, {
      signal: context.signal,
      onProgress: (p) =>
        context.progress((i + (p.epoch - 1 + p.step / p.steps) / p.epochs) * 0.45, 'training'),
    });
  }
  return { edge, cloud, cloudSays: await testResults(cloud, test) };
}

/** Virtual seconds until an answer; the clock moves on. What goes up waits until the edge has its link. */
function secondsOf(result: JointInferenceResult, context: CaseContext, bytes: number): number {
  const { world } = context;
  const edge = world.inferSeconds(0);
  if (result.source === 'edge') {
    world.now += edge;
    return edge;
  }
  const routed = context.case.testEnv.miningMode === 'mining-then-inference';
  const before = routed ? 0 : edge;
  world.now += before;
  const waited = world.reach(0);
  const travel = world.upSeconds(0, bytes) + world.downSeconds(0, result.probabilities.length * 4);
  const after = travel + world.inferSeconds(1);
  world.now += after;
  return before + waited + after;
}

/**
 * A small model answers, hard samples go to the big one. Device 0 is the edge, device 1 the cloud; the
 * link is the edge's.
 */
export async function jointInference(context: CaseContext): Promise<Observations> {
  const models = await prepare(context);
  const { test } = context.data;
  const { classes, scores = new Float32Array() } = models.cloudSays;
  const miner = await minerOf(models, context);
  let asked = 0;
  const cloud: CloudModel = {
    infer: () =>
      Promise.resolve(Array.from(scores.subarray(asked * classes, (asked + 1) * classes))),
  };
  const joint = new JointInference({
    estimator: models.edge,
    cloud,
    miner,
    mode: context.case.testEnv.miningMode,
    ...('route' in miner ? { route: (sample) => miner.route(sample) } : {}),
  });
  const bytes = sampleBytes(test);
  const predicted = new Int32Array(test.size);
  const said = new Float32Array(test.size * classes);
  const latenciesMs: number[] = [];
  let uploads = 0;
  for (let i = 0; i < test.size; i++) {
    asked = i;
    context.signal.throwIfAborted();
    const result = await joint.inference(slice(test, i, i + 1).inputs);
    predicted[i] = result.label;
    said.set(result.probabilities, i * classes);
    if (result.source === 'cloud') uploads++;
    latenciesMs.push(secondsOf(result, context, bytes) * 1000);
    if (i % 50 === 0) context.progress(0.9 + (0.1 * i) / test.size, 'asking');
  }
  await joint.close();
  await models.cloud.close();
  const labels = Int32Array.from(test.labels, Number);
  const seconds = latenciesMs.reduce((a, b) => a + b, 0) / 1000;
  return {
    test: { labels, predicted, scores: said, classes },
    inferences: test.size,
    uploads,
    bytesUp: uploads * bytes,
    bytesDown: uploads * classes * ANSWER_BYTES,
    latenciesMs,
    virtualSeconds: seconds,
    throughput: seconds > 0 ? test.size / seconds : 0,
  };
}
