import { ShoalError } from '@shoal/core';
import type {
  ComponentChoice,
  ComponentChoices,
  ContinualStrategy,
  CreateEstimator,
} from '@shoal/lib';
import { lifelongMetrics } from '@shoal/lib';
import type { OptimizerOptions } from '@shoal/training';
import type { BenchmarkSamples, DataPart } from '../data/benchmark-data.ts';
import { join, pick } from '../data/parts.ts';
import { splitInto } from '../data/split.ts';
import type { PlannedCase } from '../plan/planned-case.ts';
import type { CaseContext } from './case-context.ts';
import { FIRST_ONLY, JOINT, KNOWLEDGE_BASE } from './names.ts';
import type { Observations } from './observations.ts';
import { COMPONENT_SLOTS } from './slots.ts';
import {
  learnContinually,
  learnTogether,
  learnWithKnowledgeBase,
  type SequenceOptions,
  type SequenceResult,
  type UnseenDetection,
  untrainedScores,
} from './task-sequence.ts';

/** What a `basemodel` of lifelong learning returns. */
export interface LifelongBase {
  /** The untrained model, an ONNX file. */
  readonly model: Uint8Array;
  readonly optimizer: OptimizerOptions;
  readonly epochs: number;
  readonly batchSize?: number;
  /** Makes the estimator of a task; needed by the knowledge base. */
  readonly create: CreateEstimator;
}

export function tasksOf({ case: c, data }: CaseContext): readonly DataPart[] {
  if (data.tasks) return data.tasks;
  const split = c.algorithm.split ?? c.testEnv.split;
  const parts = splitInto(data.train, c.testEnv.incrementalRounds, split, c.seed);
  // Where a part says which samples it is made of, the test samples of the data are parted alike.
  if (split.method === 'by') return withTests(parts, data.test, split.attribute);
  if (split.method === 'classes') return withTests(parts, data.test, undefined);
  return parts;
}

/** Everything of a part is learned from, and it is tested on what the test samples have of its kind. */
function withTests(
  parts: readonly DataPart[],
  test: BenchmarkSamples,
  attribute: string | undefined,
): DataPart[] {
  return parts.map((part) => {
    const classes = new Set([...part.train.labels, ...part.test.labels]);
    const own = Array.from({ length: test.size }, (_, i) => i).filter((i) =>
      attribute === undefined
        ? classes.has(test.labels[i] ?? -1n)
        : test.attributes[attribute]?.[i] === part.name,
    );
    if (own.length === 0)
      throw new ShoalError('invalid_argument', `the test samples have none of ${part.name}`);
    return { name: part.name, train: join([part.train, part.test]), test: pick(test, own) };
  });
}

/** Components of the knowledge base from the modules that name them. */
export function componentsOf({ algorithm }: PlannedCase): ComponentChoices {
  const chosen: [string, ComponentChoice][] = [];
  for (const [type, slot] of Object.entries(COMPONENT_SLOTS)) {
    const module = algorithm.modules.find((m) => m.type === type);
    if (module)
      chosen.push([slot, { method: module.url ?? module.name, param: module.hyperparameters }]);
  }
  return Object.fromEntries(chosen);
}

/** What learned everything at once has no before: only the last row of R means something. */
function lastOnly({ matrix, predicted }: SequenceResult): SequenceResult {
  const rows = matrix.map((row, i) => (i === matrix.length - 1 ? row : row.map(() => Number.NaN)));
  return { matrix: rows, predicted };
}

async function learned(
  context: CaseContext,
  options: SequenceOptions,
  base: LifelongBase,
): Promise<SequenceResult & { readonly detection?: UnseenDetection }> {
  const choice = context.choice('learner') ?? { name: KNOWLEDGE_BASE, hyperparameters: {} };
  const afterTask = (t: number): void => {
    context.progress((t + 1) / options.tasks.length, options.tasks[t]?.name);
    context.signal.throwIfAborted();
  };
  switch (choice.name) {
    case KNOWLEDGE_BASE: {
      const { create } = base;
      const components = componentsOf(context.case);
      return await learnWithKnowledgeBase({ ...options, create, components }, afterTask);
    }
    case JOINT:
      return lastOnly(await learnTogether(options, options.tasks));
    case FIRST_ONLY:
      return await learnTogether(options, options.tasks.slice(0, 1));
    default: {
      const strategy = { name: choice.name, ...choice.hyperparameters } as ContinualStrategy;
      return await learnContinually(options, strategy, afterTask);
    }
  }
}

/** Tasks come one after another; after each the edge is asked about all of them. */
export async function lifelong(context: CaseContext): Promise<Observations> {
  const tasks = tasksOf(context);
  const base = await context.create<LifelongBase>('basemodel');
  const options = { ...base, tasks, seed: context.case.seed };
  const { matrix, predicted, detection } = await learned(context, options, base);
  const all = join(tasks.map((t) => t.test));
  const inferences = tasks.length * all.size;
  const { found = 0, missed = 0, alarms = 0, quiet = 0, bytes = 0 } = detection ?? {};
  return {
    test: {
      labels: Int32Array.from(all.labels, Number),
      predicted,
      classes: new Set(all.labels).size,
    },
    matrix,
    transfer: lifelongMetrics(matrix, await untrainedScores(options)),
    taskNames: tasks.map((t) => t.name),
    curve: matrix.flatMap((row, t) => {
      const seen = row.slice(0, t + 1);
      const value = seen.reduce((a, b) => a + b, 0) / seen.length;
      return Number.isNaN(value) ? [] : [{ step: t + 1, value, bytes: 0, virtualSeconds: 0 }];
    }),
    ...(detection
      ? {
          inferences,
          uploads: found + alarms,
          bytesUp: bytes,
          extra: {
            unseenRecall: found / Math.max(1, found + missed),
            unseenPrecision: found / Math.max(1, found + alarms),
            falseAlarms: alarms / Math.max(1, alarms + quiet),
          },
        }
      : {}),
  };
}
