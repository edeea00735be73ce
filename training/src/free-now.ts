/** From this size on memory is worth giving back at once. */
const LARGE_BYTES = 2 ** 16;

/**
 * Gives memory back without waiting for the collector, which comes late: it sees a small object. Node.js 21 and later;
 * before, it has to come.
 */
export function freeNow(buffer: ArrayBufferLike): void {
  if (buffer.byteLength < LARGE_BYTES) return;
  (buffer as { transfer?: (length: number) => unknown }).transfer?.(0);
}
