import { isJsonObject, ShoalError } from '@shoal/core';
import { boostTrees } from '../estimator/boosted-trees/boosting.ts';
import type { ModelPair } from './model-pair.ts';

/** A tree as JSON: inner nodes ask `x[feature] ≤ threshold`, left then; leaves have feature −1. */
interface PlainTree {
  readonly feature: readonly number[];
  readonly threshold: readonly number[];
  readonly left: readonly number[];
  readonly value: readonly number[];
}

/** Boosted trees for "the cloud is right and the edge is wrong", beside the edge's own odds. */
export interface GrownDeferral {
  readonly classes: number;
  /** Log-odds of no trees. */
  readonly base: number;
  readonly trees: readonly PlainTree[];
}

/** Settings of the trees: shallow, as the pairs that count are few. */
const GROWTH = { depth: 3, rounds: 150, learningRate: 0.05, subsample: 0.7, minChildWeight: 5 };
/** Fewest pairs in which the cloud helps: trees learn nothing from less. */
const LEAST_HELPED = 100;
const FLOOR = 1e-12;

/**
 * What trees see of the edge's answer: how far each class is behind the likeliest (in log-odds), by rank
 * and by class, and which two are in front.
 */
export function grownFeatures(p: ArrayLike<number>): number[] {
  const logs = Array.from(p, (v) => Math.log(Math.max(v, FLOOR)));
  const order = logs.map((_, k) => k).toSorted((a, b) => (logs[b] ?? 0) - (logs[a] ?? 0));
  const [first = 0, second = 0] = order;
  const top = logs[first] ?? 0;
  const behind = logs.map((v) => v - top);
  return [...order.slice(1).map((k) => behind[k] ?? 0), top, first, second, ...behind];
}

/**
 * Fits trees to logged pairs: many of them, for example of turned and shifted copies of the training
 * samples, whose classes are known.
 *
 * @throws ShoalError `failed_precondition` when the cloud helps in fewer than 100 of the pairs.
 */
export function growDeferral(pairs: readonly ModelPair[]): GrownDeferral {
  const labels = pairs.map((p) => (p.cloudRight && !p.edgeRight ? 1 : 0));
  const helped = labels.filter((l) => l === 1).length;
  const [pair] = pairs;
  if (!pair || helped < LEAST_HELPED)
    throw new ShoalError(
      'failed_precondition',
      `grown deferral needs ${LEAST_HELPED} pairs in which the cloud is right and the edge wrong; got ${helped} of ${pairs.length}; fitDeferral does with fewer`,
    );
  const rows = pairs.map((p) => grownFeatures(p.edge));
  const width = rows[0]?.length ?? 0;
  const inputs = Float32Array.from(rows.flat());
  const model = boostTrees({ inputs, width, labels, size: rows.length, classes: 2 }, GROWTH);
  // Two margins, of helping and of not; what counts is their difference.
  const trees = model.trees.map((tree, i): PlainTree => {
    const sign = i % 2 === 1 ? 1 : -1;
    return {
      feature: [...tree.feature],
      threshold: [...tree.threshold],
      left: [...tree.left],
      value: Array.from(tree.value, (v) => sign * Number(v.toPrecision(6))),
    };
  });
  const base = (model.base[1] ?? 0) - (model.base[0] ?? 0);
  return { classes: pair.edge.length, base, trees };
}

function leaf(tree: PlainTree, x: readonly number[]): number {
  let node = 0;
  while ((tree.feature[node] ?? -1) >= 0) {
    const goesLeft = (x[tree.feature[node] ?? 0] ?? 0) <= (tree.threshold[node] ?? 0);
    node = (tree.left[node] ?? 0) + (goesLeft ? 0 : 1);
  }
  return tree.value[node] ?? 0;
}

/**
 * How little there is to gain from the cloud, in (0, 1); low is hard. A product of two experts: the edge's
 * own odds of its answer against the runner-up, over the odds that the cloud helps.
 */
export function grownScore(model: GrownDeferral, edge: ArrayLike<number>): number {
  if (edge.length !== model.classes)
    throw new ShoalError(
      'invalid_argument',
      `the deferral model is for ${model.classes} classes, the edge has ${edge.length}`,
    );
  const features = grownFeatures(edge).map(Math.fround);
  const gain = model.trees.reduce((sum, tree) => sum + leaf(tree, features), model.base);
  const ahead = -(features[0] ?? 0);
  return 1 / (1 + Math.exp(gain - ahead));
}

function isTree(value: unknown): value is PlainTree {
  if (!isJsonObject(value)) return false;
  const lists = ['feature', 'threshold', 'left', 'value'].map((k) => value[k]);
  const [size] = lists.map((l) => (Array.isArray(l) ? l.length : -1));
  const fits = lists.every(
    (l) => Array.isArray(l) && l.length === size && l.every((v) => typeof v === 'number'),
  );
  if (!fits || size === undefined || size < 1) return false;
  const { feature, left } = value as unknown as PlainTree;
  // Children come after their parent: no walk goes in circles.
  return feature.every((f, i) => f < 0 || ((left[i] ?? 0) > i && (left[i] ?? 0) + 1 < size));
}

/** Whether a parsed value is a grown deferral model. */
export function isGrownDeferral(value: unknown): value is GrownDeferral {
  return (
    isJsonObject(value) &&
    Number.isInteger(value['classes']) &&
    Number.isFinite(value['base']) &&
    Array.isArray(value['trees']) &&
    value['trees'].every(isTree)
  );
}
