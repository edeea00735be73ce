/** A stream of pseudo-random numbers. Randomness is an argument, so that runs can be repeated. */
export interface Random {
  /** Uniform in [0, 1). */
  next(): number;
  /** Uniform integer in [0, n). */
  int(n: number): number;
  /** Standard normal deviate (mean 0, standard deviation 1), Box–Muller. */
  normal(): number;
  /** A fresh array holding the numbers 0 … n−1 in random order (Fisher–Yates). */
  permutation(n: number): Uint32Array;
  /** An independent stream; the same label gives the same stream. */
  fork(label: string): Random;
}

/** FNV-1a, 32 bits: spreads a label over the seed space. */
function hash32(text: string, seed: number): number {
  let h = (0x811c9dc5 ^ seed) >>> 0;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193) >>> 0;
  return h;
}

/** splitmix32: fills the generator's state from one 32-bit seed. */
function splitMix32(seed: number): () => number {
  let s = seed >>> 0;
  return () => {
    s = (s + 0x9e3779b9) >>> 0;
    let t = s ^ (s >>> 16);
    t = Math.imul(t, 0x21f0aaad);
    t ^= t >>> 15;
    t = Math.imul(t, 0x735a2d97);
    return (t ^ (t >>> 15)) >>> 0;
  };
}

/**
 * xoshiro128** (Blackman & Vigna, "Scrambled linear pseudorandom number generators", 2018), seeded
 * with splitmix32. Fast and repeatable; not for cryptography.
 *
 * @param seed Any number; its lower 32 bits count.
 */
export function seededRandom(seed: number): Random {
  const mix = splitMix32(seed);
  let a = mix();
  let b = mix();
  let c = mix();
  let d = mix();
  const word = (): number => {
    const r = Math.imul(b, 5);
    const result = Math.imul((r << 7) | (r >>> 25), 9) >>> 0;
    const t = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= t;
    d = (d << 11) | (d >>> 21);
    return result;
  };
  let spare: number | undefined;
  const random: Random = {
    next: () => (word() * 0x200000 + (word() >>> 11)) / 0x20000000000000,
    int: (n) => Math.floor(random.next() * n),
    normal: () => {
      if (spare !== undefined) {
        const value = spare;
        spare = undefined;
        return value;
      }
      const radius = Math.sqrt(-2 * Math.log(1 - random.next()));
      const angle = 2 * Math.PI * random.next();
      spare = radius * Math.sin(angle);
      return radius * Math.cos(angle);
    },
    permutation: (n) => {
      const order = Uint32Array.from({ length: n }, (_, i) => i);
      for (let i = n - 1; i > 0; i--) {
        const j = random.int(i + 1);
        const held = order[i] ?? 0;
        order[i] = order[j] ?? 0;
        order[j] = held;
      }
      return order;
    },
    fork: (label) => seededRandom(hash32(label, seed)),
  };
  return random;
}
