import { lifelongMetrics, OnnxEstimator } from '@shoal/lib';
import type { DataPart } from '../data/benchmark-data.ts';
import { join } from '../data/parts.ts';
import { testResults } from '../paradigms/case-context.ts';
import { ClassTasks } from '../paradigms/class-tasks.ts';
import type { CurvePoint, Observations } from '../paradigms/observations.ts';
import type { ClusterCase } from './access.ts';
import { expectStrategy, federationOnCluster, sharedModel } from './federated.ts';

/** Accuracy on every task. */
async function scoresOf(model: OnnxEstimator, tasks: readonly DataPart[]): Promise<number[]> {
  const scores: number[] = [];
  for (const { test } of tasks) {
    const { accuracy = Number.NaN } = await model.evaluate(test);
    scores.push(accuracy);
  }
  return scores;
}

/** A FederatedLearningJob for every task, each from the model of the one before. */
export async function classIncrementalOnCluster(c: ClusterCase): Promise<Observations> {
  const { context, data } = c;
  const { case: planned } = context;
  expectStrategy(c);
  const plan = new ClassTasks(planned, data);
  const { tasks } = plan;
  let bytes = await sharedModel(c);
  let model = new OnnxEstimator({ model: bytes, threads: 1 });
  const untrained = await scoresOf(model, tasks);
  const matrix: number[][] = [];
  const curve: CurvePoint[] = [];
  const sums = { up: 0, down: 0 };
  for (const [t, { name }] of tasks.entries()) {
    const participants = plan.samplesOf(t).map((_, participant) => ({ participant, task: t }));
    const ended = await federationOnCluster(
      c,
      { name: `${c.name}-t${t}`, participants, seed: planned.seed + t },
      {
        model: bytes,
        onProgress: (share) => context.progress((t + share) / tasks.length, name),
      },
    );
    bytes = ended.model;
    sums.up += ended.bytesUp;
    sums.down += ended.bytesDown;
    await model.close();
    model = new OnnxEstimator({ model: bytes, threads: 1 });
    const row = await scoresOf(model, tasks);
    matrix.push(row);
    const seen = row.slice(0, t + 1);
    const value = seen.reduce((a, b) => a + b, 0) / seen.length;
    curve.push({ step: t + 1, value, bytes: sums.up + sums.down, virtualSeconds: Number.NaN });
  }
  const test = await testResults(model, join(tasks.map((t) => t.test)));
  await model.close();
  return {
    test,
    matrix,
    transfer: lifelongMetrics(matrix, untrained),
    taskNames: tasks.map((t) => t.name),
    curve,
    bytesUp: sums.up,
    bytesDown: sums.down,
  };
}
