import { sha256 } from '@noble/hashes/sha2.js';

/** Up to this many participants everyone masks with everyone (Bonawitz et al. 2017). */
const COMPLETE_UP_TO = 20;

/**
 * Neighbours of each participant for n participants: all others in a small federation, else an even
 * O(log n) (Bell et al. 2020, §3.3).
 */
export function neighbourCount(participants: number): number {
  if (participants <= COMPLETE_UP_TO) return participants - 1;
  return Math.min(participants - 1, 2 * Math.ceil(2.5 * Math.log2(participants)));
}

/** Shares that are needed of those handed out: more than two thirds of the holders. */
export function defaultThreshold(holders: number): number {
  return Math.max(leastThreshold(holders), Math.ceil((2 * holders) / 3));
}

/** A participant refuses fewer: with half of the holders the server could open both masks of somebody. */
export function leastThreshold(holders: number): number {
  return Math.floor(holders / 2) + 1;
}

/** Whole numbers from a hash chain: everyone draws the same, and nobody chooses them. */
function* hashedWords(seed: Uint8Array): Generator<number, never> {
  for (let block = 0; ; block++) {
    const input = new Uint8Array(seed.length + 4);
    input.set(seed);
    new DataView(input.buffer).setUint32(seed.length, block);
    const view = new DataView(sha256(input).buffer);
    for (let i = 0; i < 8; i++) yield view.getUint32(i * 4);
  }
}

/**
 * A k-regular graph over the participants: a ring in random order in which each is joined to the k/2
 * before and after it (Bell et al. 2020, algorithm 1). The order follows from the seed, so that every
 * participant can work it out for itself.
 *
 * @param participants Sorted.
 * @param count k; odd values are rounded up while that is possible.
 */
export function neighbourGraph(
  participants: readonly string[],
  count: number,
  seed: Uint8Array,
): Map<string, readonly string[]> {
  const n = participants.length;
  if (count >= n - 1)
    return new Map(participants.map((p) => [p, participants.filter((q) => q !== p)]));
  const words = hashedWords(seed);
  const ring = [...participants];
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor((Number(words.next().value) / 2 ** 32) * (i + 1));
    [ring[i], ring[j]] = [ring[j] ?? '', ring[i] ?? ''];
  }
  const half = Math.ceil(count / 2);
  return new Map(
    ring.map((p, i) => {
      const near = Array.from({ length: half }, (_, d) => [
        ring[(i + d + 1) % n] ?? '',
        ring[(i - d - 1 + n) % n] ?? '',
      ]);
      return [p, [...new Set(near.flat())].filter((q) => q !== p).toSorted()];
    }),
  );
}
