import { GraphBuilder, modelOf } from './graph-builder.ts';
import { writeModel } from './model-file.ts';

/** One tree of an ensemble, as columns; node 0 is the root. */
export interface EnsembleTree {
  /** Feature a node asks for; −1 for a leaf. */
  readonly feature: ArrayLike<number>;
  /** x ≤ threshold goes left. */
  readonly threshold: ArrayLike<number>;
  /** Where a missing value (NaN) goes: 1 left, 0 right. */
  readonly missingLeft: ArrayLike<number>;
  /** Left child; the right one follows it. */
  readonly left: ArrayLike<number>;
  /** What a leaf adds to its output. */
  readonly value: ArrayLike<number>;
  /** The output this tree adds to. */
  readonly output: number;
}

export interface TreeEnsemble {
  readonly trees: readonly EnsembleTree[];
  /** Width of a row of features. */
  readonly width: number;
  /** Values outputs begin with, `[outputs]`. */
  readonly base: readonly number[];
}

function columns(trees: readonly EnsembleTree[]): {
  nodes: Record<string, number[]>;
  leaves: Record<string, number[]>;
  modes: string[];
} {
  const nodes: Record<string, number[]> = {};
  const leaves: Record<string, number[]> = {};
  const modes: string[] = [];
  const push = (into: Record<string, number[]>, row: Readonly<Record<string, number>>): void => {
    for (const [name, value] of Object.entries(row)) (into[name] ??= []).push(value);
  };
  for (const [tree, t] of trees.entries()) {
    for (let node = 0; node < t.feature.length; node++) {
      const feature = t.feature[node] ?? -1;
      const leaf = feature < 0;
      const left = t.left[node] ?? 0;
      modes.push(leaf ? 'LEAF' : 'BRANCH_LEQ');
      push(nodes, {
        treeids: tree,
        nodeids: node,
        featureids: leaf ? 0 : feature,
        values: leaf ? 0 : (t.threshold[node] ?? 0),
        truenodeids: leaf ? 0 : left,
        falsenodeids: leaf ? 0 : left + 1,
        missing_value_tracks_true: leaf ? 0 : (t.missingLeft[node] ?? 0),
      });
      if (!leaf) continue;
      push(leaves, { treeids: tree, nodeids: node, ids: t.output, weights: t.value[node] ?? 0 });
    }
  }
  return { nodes, leaves, modes };
}

/**
 * An ONNX model of a tree ensemble (`ai.onnx.ml` TreeEnsembleRegressor, version 3) that sums its
 * leaves: input `x` float32 `[batch, width]`, output `logits` float32 `[batch, outputs]`.
 */
export function treeEnsembleModel(ensemble: TreeEnsemble): Uint8Array {
  const builder = new GraphBuilder('');
  const { nodes, leaves, modes } = columns(ensemble.trees);
  const outputs = ensemble.base.length;
  const x = builder.input('x', ['batch', ensemble.width]);
  const ints = (names: Record<string, number[]>, prefix: string): [string, readonly number[]][] =>
    Object.entries(names)
      .filter(([name]) => name !== 'values' && name !== 'weights')
      .map(([name, list]) => [`${prefix}_${name}`, list]);
  builder.nodeWithOutputs('TreeEnsembleRegressor', [x], {
    domain: 'ai.onnx.ml',
    as: 'logits',
    attributes: {
      n_targets: outputs,
      aggregate_function: 'SUM',
      post_transform: 'NONE',
      base_values: { floats: ensemble.base },
      nodes_modes: { strings: modes },
      nodes_values: { floats: nodes['values'] ?? [] },
      target_weights: { floats: leaves['weights'] ?? [] },
      ...Object.fromEntries(ints(nodes, 'nodes')),
      ...Object.fromEntries(ints(leaves, 'target')),
    },
  });
  builder.output('logits', ['batch', outputs]);
  return writeModel(modelOf(builder.graph('tree-ensemble'), 18));
}
