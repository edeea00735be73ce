type Gradients = ReadonlyMap<string, Float32Array>;

function dot(a: Gradients, b: Gradients): number {
  let sum = 0;
  for (const [name, x] of a) {
    const y = b.get(name);
    if (!y) throw new Error(`no gradient of "${name}"`);
    for (let i = 0; i < x.length; i++) sum += (x[i] ?? 0) * (y[i] ?? 0);
  }
  return sum;
}

/**
 * A-GEM's projection (Chaudhry et al. 2019, eq. 11): where the step would raise the loss on the
 * memory, gᵀg_ref < 0, its part along g_ref is taken out: g − (gᵀg_ref / g_refᵀg_ref)·g_ref.
 * Otherwise g as it is.
 */
export function projectGradients(
  gradients: Gradients,
  reference: Gradients,
): Map<string, Float32Array> {
  const along = dot(gradients, reference);
  const norm = dot(reference, reference);
  if (along >= 0 || norm === 0) return new Map(gradients);
  const factor = along / norm;
  return new Map(
    [...gradients].map(([name, g]) => {
      const r = reference.get(name) ?? new Float32Array(g.length);
      return [name, g.map((v, i) => v - factor * (r[i] ?? 0))];
    }),
  );
}

/**
 * Adds a weighted square of a per-sample gradient to the diagonal of the Fisher information.
 *
 * @param into Changed in place; made when empty.
 */
export function addSquares(
  into: Map<string, Float32Array>,
  gradients: Gradients,
  weight: number,
): void {
  for (const [name, g] of gradients) {
    const sum = into.get(name) ?? new Float32Array(g.length);
    for (let i = 0; i < g.length; i++) sum[i] = (sum[i] ?? 0) + weight * (g[i] ?? 0) ** 2;
    into.set(name, sum);
  }
}
