const WORDS = 4096;

/** Uniform numbers in (0, 1] from the operating system's generator: a 32-bit seed could be searched. */
function* secureUniforms(): Generator<number, never> {
  const words = new Uint32Array(WORDS);
  for (;;) {
    crypto.getRandomValues(words);
    for (let i = 0; i + 1 < WORDS; i += 2)
      yield ((words[i] ?? 0) * 0x200000 + ((words[i + 1] ?? 0) >>> 11) + 1) / 0x20000000000000;
  }
}

/**
 * Adds independent normal noise of the given standard deviation (not variance) to every value, in
 * place. Box–Muller on the operating system's randomness.
 *
 * @param uniforms In (0, 1]; for tests only.
 */
export function addGaussianNoise(
  values: Float32Array,
  standardDeviation: number,
  uniforms: Iterator<number> = secureUniforms(),
): void {
  if (!(standardDeviation > 0)) return;
  const next = (): number => Number(uniforms.next().value);
  for (let i = 0; i < values.length; i += 2) {
    const radius = standardDeviation * Math.sqrt(-2 * Math.log(next()));
    const angle = 2 * Math.PI * next();
    values[i] = (values[i] ?? 0) + radius * Math.cos(angle);
    if (i + 1 < values.length) values[i + 1] = (values[i + 1] ?? 0) + radius * Math.sin(angle);
  }
}

/**
 * Standard deviation of the noise on a weighted mean of changes clipped to `bound`: one participant
 * can move it by bound·max p_k, its largest weight, not by bound/n.
 *
 * @param multiplier z, noise relative to the sensitivity.
 * @param weights Any positive factors; they are normalized.
 */
export function noiseForMean(
  multiplier: number,
  bound: number,
  weights: readonly number[],
): number {
  const total = weights.reduce((a, b) => a + b, 0);
  return (multiplier * bound * Math.max(...weights)) / total;
}
