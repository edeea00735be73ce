import { type Random, ShoalError } from '@shoal/core';

/** A gamma deviate with shape `a` and scale 1 (Marsaglia & Tsang 2000; a < 1 by their boost). */
function gamma(a: number, random: Random): number {
  if (a < 1) return gamma(a + 1, random) * (1 - random.next()) ** (1 / a);
  const d = a - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = random.normal();
    const v = (1 + c * x) ** 3;
    if (v > 0 && Math.log(1 - random.next()) < 0.5 * x * x + d - d * v + d * Math.log(v))
      return d * v;
  }
}

function byClass(labels: ArrayLike<bigint>, random: Random): number[][] {
  const groups = new Map<string, number[]>();
  for (const at of random.permutation(labels.length)) {
    const key = String(labels[at]);
    groups.set(key, [...(groups.get(key) ?? []), at]);
  }
  return [...groups].toSorted(([a], [b]) => Number(a) - Number(b)).map(([, g]) => g);
}

function expectCount(participants: number, size: number): void {
  if (!Number.isInteger(participants) || participants < 1 || participants > size)
    throw new ShoalError(
      'invalid_argument',
      `${size} samples cannot be shared out among ${participants} participants`,
    );
}

/** Positions of the samples of each participant, the same share of everything for all. */
export function iidPartition(size: number, participants: number, random: Random): Uint32Array[] {
  expectCount(participants, size);
  const order = random.permutation(size);
  return Array.from({ length: participants }, (_, k) =>
    order.filter((_v, i) => i % participants === k),
  );
}

/**
 * Label skew: of each class the participants get shares drawn from Dirichlet(α) (Hsu et al. 2019,
 * arXiv 1909.06335, §3). Small α: few classes each; large α: the same for all. Drawn again until
 * everyone has at least `least` samples.
 *
 * @param alpha > 0; 0.3 is strongly skewed, 100 nearly even.
 */
export function dirichletPartition(
  labels: ArrayLike<bigint>,
  participants: number,
  options: { readonly alpha: number; readonly random: Random; readonly least?: number },
): Uint32Array[] {
  const { alpha, random, least = 1 } = options;
  expectCount(participants * least, labels.length);
  if (!(alpha > 0)) throw new ShoalError('invalid_argument', `alpha must be > 0, got ${alpha}`);
  const classes = byClass(labels, random);
  for (let attempt = 0; attempt < 1000; attempt++) {
    const parts = Array.from({ length: participants }, (): number[] => []);
    for (const members of classes) {
      const shares = parts.map(() => gamma(alpha, random));
      const total = shares.reduce((a, b) => a + b, 0);
      let [from, reached] = [0, 0];
      for (const [k, share] of shares.entries()) {
        reached += share / total;
        const to = k === participants - 1 ? members.length : Math.round(reached * members.length);
        parts[k]?.push(...members.slice(from, to));
        from = to;
      }
    }
    if (parts.every((p) => p.length >= least)) return parts.map((p) => Uint32Array.from(p));
  }
  throw new ShoalError(
    'failed_precondition',
    `no Dirichlet(${alpha}) split gives each of ${participants} participants ${least} samples; ask for fewer or a larger alpha`,
  );
}

/** Shards (McMahan et al. 2017, §3): samples sorted by label, cut into pieces, some pieces each. */
export function shardPartition(
  labels: ArrayLike<bigint>,
  participants: number,
  options: { readonly shardsEach: number; readonly random: Random },
): Uint32Array[] {
  const { shardsEach, random } = options;
  const count = participants * shardsEach;
  expectCount(count, labels.length);
  const sorted = byClass(labels, random).flat();
  const order = random.permutation(count);
  const cut = (i: number): number => Math.round((i * sorted.length) / count);
  return Array.from({ length: participants }, (_, k) =>
    Uint32Array.from(
      Array.from(order.subarray(k * shardsEach, (k + 1) * shardsEach)).flatMap((shard) =>
        sorted.slice(cut(shard), cut(shard + 1)),
      ),
    ),
  );
}

/** Quantity skew: the same mixture for all, but Dirichlet(α) amounts. */
export function quantityPartition(
  size: number,
  participants: number,
  options: { readonly alpha: number; readonly random: Random },
): Uint32Array[] {
  expectCount(participants, size);
  const { alpha, random } = options;
  const order = random.permutation(size);
  const shares = Array.from({ length: participants }, () => gamma(alpha, random));
  const total = shares.reduce((a, b) => a + b, 0);
  let [from, reached] = [0, 0];
  return shares.map((share, k) => {
    reached += share / total;
    const rest = participants - k - 1;
    const wanted = k === participants - 1 ? size : Math.round(reached * size);
    const to = Math.min(size - rest, Math.max(from + 1, wanted));
    const part = order.slice(from, to);
    from = to;
    return part;
  });
}
