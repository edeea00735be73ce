/** From this size on memory is worth giving back at once. */
const LARGE_BYTES = 2 ** 17;

/**
 * Gives memory back without waiting for the collector, which comes late: it sees a small object. Node.js 21 and later;
 * before, it has to come. What Node.js keeps for itself (the pool that small files are read into) stays.
 */
export function freeNow(buffer: ArrayBufferLike): void {
  if (buffer.byteLength < LARGE_BYTES) return;
  try {
    (buffer as { transfer?: (length: number) => unknown }).transfer?.(0);
  } catch {
    // Not ours to free.
  }
}
