import type { QuantizedFeatures } from './quantize.ts';

/** A binary tree as columns; node 0 is the root. */
export interface Tree {
  /** Feature a node asks for; −1 for a leaf. */
  readonly feature: Int32Array;
  /** x ≤ threshold goes left. */
  readonly threshold: Float32Array;
  /** Where a missing value goes: 1 left, 0 right. */
  readonly missingLeft: Uint8Array;
  /** Left child; the right one follows it. */
  readonly left: Int32Array;
  /** What a leaf adds. */
  readonly value: Float64Array;
}

export interface GrowOptions {
  readonly depth: number;
  /** λ on leaf values. */
  readonly lambda: number;
  readonly minChildWeight: number;
  /** Factor of leaf values. */
  readonly learningRate: number;
}

interface Split {
  readonly feature: number;
  /** Bins up to this one go left. */
  readonly bin: number;
  readonly missingLeft: boolean;
  readonly gain: number;
}

interface Growing {
  readonly from: number;
  readonly to: number;
  readonly gradient: number;
  readonly hessian: number;
  readonly depth: number;
  /** Sums per slot, gradient and hessian in turn; undefined where no split is looked for. */
  readonly histogram: Float64Array | undefined;
  readonly node: number;
}

const NO_SPLIT: Split = { feature: -1, bin: 0, missingLeft: false, gain: 0 };

/** Grows one regression tree on gradients and hessians (Chen & Guestrin 2016, eqs. 5–7). */
export class TreeGrower {
  readonly #features: QuantizedFeatures;
  readonly #options: GrowOptions;
  readonly #rows: Uint32Array;
  readonly #spare: Uint32Array;
  readonly #free: Float64Array[] = [];
  #gradients = new Float64Array();
  #hessians = new Float64Array();

  constructor(features: QuantizedFeatures, options: GrowOptions) {
    this.#features = features;
    this.#options = options;
    this.#rows = new Uint32Array(features.size);
    this.#spare = new Uint32Array(features.size);
  }

  #histogram(): Float64Array {
    const { offsets, width } = this.#features;
    const known = this.#free.pop();
    known?.fill(0);
    return known ?? new Float64Array((offsets[width] ?? 0) * 2);
  }

  /** Sums gradients and hessians of the rows per slot. */
  #sum(from: number, to: number): Float64Array {
    const { slots, width } = this.#features;
    const histogram = this.#histogram();
    const rows = this.#rows;
    const gradients = this.#gradients;
    const hessians = this.#hessians;
    for (let i = from; i < to; i++) {
      const row = rows[i] ?? 0;
      const g = gradients[row] ?? 0;
      const h = hessians[row] ?? 0;
      const end = (row + 1) * width;
      for (let k = row * width; k < end; k++) {
        const slot = (slots[k] ?? 0) * 2;
        histogram[slot] = (histogram[slot] ?? 0) + g;
        histogram[slot + 1] = (histogram[slot + 1] ?? 0) + h;
      }
    }
    return histogram;
  }

  #best(at: Growing, histogram: Float64Array): Split {
    const { offsets, width } = this.#features;
    let best = NO_SPLIT;
    for (let feature = 0; feature < width; feature++) {
      const missing = histogram[(offsets[feature] ?? 0) * 2 + 1] ?? 0;
      // Without missing values in sight, those met later go right.
      for (const missingLeft of missing > 0 ? [false, true] : [false])
        best = this.#bestCut(at, histogram, { ...best, feature, missingLeft }, best);
    }
    return best;
  }

  /** The best cut of one feature with missing values on one side, or what was best before. */
  #bestCut(
    at: Growing,
    histogram: Float64Array,
    { feature, missingLeft }: Split,
    before: Split,
  ): Split {
    const { offsets } = this.#features;
    const first = offsets[feature] ?? 0;
    const bins = (offsets[feature + 1] ?? 0) - first;
    const parent = (at.gradient * at.gradient) / (at.hessian + this.#options.lambda);
    let best = before;
    let g = missingLeft ? (histogram[first * 2] ?? 0) : 0;
    let h = missingLeft ? (histogram[first * 2 + 1] ?? 0) : 0;
    for (let bin = 1; bin < bins - 1; bin++) {
      g += histogram[(first + bin) * 2] ?? 0;
      h += histogram[(first + bin) * 2 + 1] ?? 0;
      const gain = this.#gain(at, g, h) - parent;
      if (gain > best.gain + 1e-12) best = { feature, bin, missingLeft, gain };
    }
    return best;
  }

  #gain(at: Growing, g: number, h: number): number {
    const { lambda, minChildWeight } = this.#options;
    const right = at.hessian - h;
    if (h < minChildWeight || right < minChildWeight) return Number.NEGATIVE_INFINITY;
    return (g * g) / (h + lambda) + (at.gradient - g) ** 2 / (right + lambda);
  }

  /** Moves rows that go left to the front, keeping their order; returns where the others begin. */
  #partition(at: Growing, split: Split): number {
    const { slots, offsets, width } = this.#features;
    const first = offsets[split.feature] ?? 0;
    let left = at.from;
    let right = 0;
    for (let i = at.from; i < at.to; i++) {
      const row = this.#rows[i] ?? 0;
      const bin = (slots[row * width + split.feature] ?? 0) - first;
      const goesLeft = bin === 0 ? split.missingLeft : bin <= split.bin;
      if (goesLeft) this.#rows[left++] = row;
      else this.#spare[right++] = row;
    }
    this.#rows.set(this.#spare.subarray(0, right), left);
    return left;
  }

  /**
   * Grows a tree over the given rows.
   *
   * @param margins Gets each row's leaf value added: `margins[row · stride + column]`.
   */
  grow(
    rows: Uint32Array,
    slope: { readonly gradients: Float64Array; readonly hessians: Float64Array },
    margins: { readonly values: Float64Array; readonly stride: number; readonly column: number },
  ): Tree {
    this.#gradients = slope.gradients as Float64Array<ArrayBuffer>;
    this.#hessians = slope.hessians as Float64Array<ArrayBuffer>;
    this.#rows.set(rows);
    let [gradient, hessian] = [0, 0];
    for (const row of rows) {
      gradient += slope.gradients[row] ?? 0;
      hessian += slope.hessians[row] ?? 0;
    }
    const nodes = new NodeColumns();
    const root: Growing = {
      from: 0,
      to: rows.length,
      gradient,
      hessian,
      depth: 0,
      histogram: this.#options.depth > 0 ? this.#sum(0, rows.length) : undefined,
      node: nodes.add(),
    };
    const open: Growing[] = [root];
    for (let at = open.pop(); at; at = open.pop()) {
      const split = at.histogram ? this.#best(at, at.histogram) : NO_SPLIT;
      if (split.feature < 0) this.#close(at, nodes, margins);
      else open.push(...this.#divide(at, split, nodes));
    }
    return nodes.tree();
  }

  #close(
    at: Growing,
    nodes: NodeColumns,
    margins: { values: Float64Array; stride: number; column: number },
  ): void {
    const { lambda, learningRate } = this.#options;
    const value = (-at.gradient / (at.hessian + lambda)) * learningRate;
    nodes.value[at.node] = value;
    const { values, stride, column } = margins;
    for (let i = at.from; i < at.to; i++) {
      const slot = (this.#rows[i] ?? 0) * stride + column;
      values[slot] = (values[slot] ?? 0) + value;
    }
    if (at.histogram) this.#free.push(at.histogram);
  }

  #divide(at: Growing, split: Split, nodes: NodeColumns): Growing[] {
    const middle = this.#partition(at, split);
    const cuts = this.#features.cuts[split.feature];
    const left = nodes.add();
    nodes.add();
    nodes.feature[at.node] = split.feature;
    nodes.threshold[at.node] = cuts?.[split.bin - 1] ?? 0;
    nodes.missingLeft[at.node] = split.missingLeft ? 1 : 0;
    nodes.left[at.node] = left;
    const depth = at.depth + 1;
    const searched = depth < this.#options.depth;
    const histograms = searched ? this.#childHistograms(at, middle) : [undefined, undefined];
    if (!searched && at.histogram) this.#free.push(at.histogram);
    const sums = this.#sums(at.from, middle);
    return [
      { from: at.from, to: middle, ...sums, depth, histogram: histograms[0], node: left },
      {
        from: middle,
        to: at.to,
        gradient: at.gradient - sums.gradient,
        hessian: at.hessian - sums.hessian,
        depth,
        histogram: histograms[1],
        node: left + 1,
      },
    ];
  }

  #sums(from: number, to: number): { gradient: number; hessian: number } {
    let [gradient, hessian] = [0, 0];
    for (let i = from; i < to; i++) {
      const row = this.#rows[i] ?? 0;
      gradient += this.#gradients[row] ?? 0;
      hessian += this.#hessians[row] ?? 0;
    }
    return { gradient, hessian };
  }

  /** The smaller child is summed; the other is what the parent has besides. */
  #childHistograms(at: Growing, middle: number): [Float64Array, Float64Array] {
    const leftSmaller = middle - at.from <= at.to - middle;
    const small = leftSmaller ? this.#sum(at.from, middle) : this.#sum(middle, at.to);
    const large = at.histogram ?? new Float64Array(small.length);
    for (let i = 0; i < large.length; i++) large[i] = (large[i] ?? 0) - (small[i] ?? 0);
    return leftSmaller ? [small, large] : [large, small];
  }
}

/** Columns of a tree while it grows. */
class NodeColumns {
  readonly feature: number[] = [];
  readonly threshold: number[] = [];
  readonly missingLeft: number[] = [];
  readonly left: number[] = [];
  readonly value: number[] = [];

  add(): number {
    this.threshold.push(0);
    this.missingLeft.push(0);
    this.left.push(0);
    this.value.push(0);
    return this.feature.push(-1) - 1;
  }

  tree(): Tree {
    return {
      feature: Int32Array.from(this.feature),
      threshold: Float32Array.from(this.threshold),
      missingLeft: Uint8Array.from(this.missingLeft),
      left: Int32Array.from(this.left),
      value: Float64Array.from(this.value),
    };
  }
}
