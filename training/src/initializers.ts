import type { Random } from '@shoal/core';
import { sizeOf } from './onnx/tensor-data.ts';

/**
 * First values of a weight of shape `[out, in, …kernel]`, row-major. The same stream of random
 * numbers gives the same values.
 */
export type Initializer = (random: Random, dims: readonly number[]) => Float32Array;

function fans(dims: readonly number[]): { fanIn: number; fanOut: number } {
  const [out = 1, into = 1, ...kernel] = dims;
  const cells = sizeOf(kernel);
  return { fanIn: into * cells, fanOut: out * cells };
}

/** He et al. 2015, eq. 10: normal with variance 2/fanIn. For rectifiers. */
export const heNormal: Initializer = (random, dims) => {
  const scale = Math.sqrt(2 / fans(dims).fanIn);
  return Float32Array.from({ length: sizeOf(dims) }, () => random.normal() * scale);
};

/** Glorot & Bengio 2010, eq. 16: uniform on ±√(6/(fanIn + fanOut)). For tanh and sigmoid. */
export const glorotUniform: Initializer = (random, dims) => {
  const { fanIn, fanOut } = fans(dims);
  const limit = Math.sqrt(6 / (fanIn + fanOut));
  return Float32Array.from({ length: sizeOf(dims) }, () => (2 * random.next() - 1) * limit);
};

/**
 * Saxe et al. 2014: rows (or columns, whichever are fewer) of length 1 and at right angles, by
 * modified Gram–Schmidt on normal deviates. For recurrent weights.
 */
export const orthogonal: Initializer = (random, dims) => {
  const [out = 1, ...rest] = dims;
  const into = sizeOf(rest);
  const [count, length] = out <= into ? [out, into] : [into, out];
  const vectors: Float64Array[] = [];
  while (vectors.length < count) {
    const v = Float64Array.from({ length }, () => random.normal());
    for (const u of vectors) {
      const dot = v.reduce((sum, x, i) => sum + x * (u[i] ?? 0), 0);
      for (let i = 0; i < length; i++) v[i] = (v[i] ?? 0) - dot * (u[i] ?? 0);
    }
    const norm = Math.hypot(...v);
    if (norm > 1e-6) vectors.push(v.map((x) => x / norm));
  }
  return Float32Array.from({ length: out * into }, (_, k) => {
    const [row, column] = [Math.floor(k / into), k % into];
    return (out <= into ? vectors[row]?.[column] : vectors[column]?.[row]) ?? 0;
  });
};

/** All 0. */
export const zeros: Initializer = (_random, dims) => new Float32Array(sizeOf(dims));
