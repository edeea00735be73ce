import type { KnowledgeTask, Neighbour } from '../knowledge-base/knowledge-base.ts';

/** What is to be decided about a group of labelled samples. */
export interface UpdateCase {
  readonly task: string;
  readonly samples: number;
  /** The admitted task of that name, if there is one. */
  readonly known: KnowledgeTask | undefined;
}

export type UpdateDecision =
  /** Train a model for a task nobody had. */
  | 'new-task'
  /** Train the known task's model on. */
  | 'update'
  /** Too little to learn from: kept for later. */
  | 'wait';

export interface TaskUpdateDecision {
  decide(what: UpdateCase): UpdateDecision;
}

/**
 * New tasks become tasks and known ones are trained on, once there are enough samples
 * (`UpdateStrategyDefault`, which Sedna names but does not have; `UpdateStrategyByFinetune`).
 *
 * @param options.minimum `MIN_TRAIN_SAMPLE`, ≥ 1. Default 10.
 */
export function enoughSamples(options: { readonly minimum?: number } = {}): TaskUpdateDecision {
  const { minimum = 10 } = options;
  return {
    decide: ({ samples, known }) => (samples < minimum ? 'wait' : known ? 'update' : 'new-task'),
  };
}

/** How much each task's model has to say about a sample that no task knows. */
export interface UnseenProcessing {
  /** @returns Weights that sum to 1; empty: the fallback answers. */
  weights(neighbours: readonly Neighbour[]): readonly { task: string; weight: number }[];
}

/** The fallback (`global`) model answers. */
export const fallbackAnswers: UnseenProcessing = { weights: () => [] };

/** The nearest task answers (Sedna's `UnseenTaskAllocationDefault`, without fitting on one sample). */
export const nearestAnswers: UnseenProcessing = {
  weights: ([first]) => (first ? [{ task: first.task, weight: 1 }] : []),
};

/** The nearest tasks answer together, weighted by exp(−distance). */
export function ensembleAnswers(options: { readonly count?: number } = {}): UnseenProcessing {
  const { count = 3 } = options;
  return {
    weights(neighbours) {
      const near = neighbours.slice(0, count);
      const least = near[0]?.distance ?? 0;
      const powers = near.map((n) => Math.exp(least - n.distance));
      const sum = powers.reduce((a, b) => a + b, 0);
      return near.map((n, i) => ({ task: n.task, weight: (powers[i] ?? 0) / sum }));
    },
  };
}

/** How a task's model comes to be. */
export interface TaskRemodeling {
  /** From the model of all tasks, or from the user's untrained one. */
  readonly from: 'global' | 'scratch';
  /** Parameters that are trained, by name. Default all. */
  readonly trainable?: (parameter: string, all: readonly string[]) => boolean;
}

/** A model of its own for each task (single). */
export const singleModels: TaskRemodeling = { from: 'scratch' };

/** A copy of the model of all tasks, tuned on the task's samples (Sedna's `DefaultTaskRemodeling`). */
export const tunedCopies: TaskRemodeling = { from: 'global' };

/** Multi-task with a shared backbone: only the last layer is the task's own. */
export const sharedBackbone: TaskRemodeling = {
  from: 'global',
  trainable(parameter, all) {
    const last = all.at(-1) ?? '';
    const layer = (name: string): string => name.replace(/[./][^./]*$/, '');
    return layer(parameter) === layer(last);
  },
};
