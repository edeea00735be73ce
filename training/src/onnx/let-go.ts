/** Whether a value is a message or a list of them: something to look into. */
function isNested(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !ArrayBuffer.isView(value);
}

function isIn(value: unknown, buffers: ReadonlySet<ArrayBufferLike>): value is Uint8Array {
  return value instanceof Uint8Array && buffers.has(value.buffer);
}

/** Copies every byte field that lies in one of the buffers. */
function copyOut(message: object, buffers: ReadonlySet<ArrayBufferLike>): void {
  const fields = message as Record<string, unknown>;
  for (const [key, value] of Object.entries(message)) {
    if (isIn(value, buffers)) fields[key] = new Uint8Array(value);
    else if (Array.isArray(value)) {
      const [first] = value as unknown[];
      if (ArrayBuffer.isView(first) || isNested(first)) copyOut(value, buffers);
    } else if (isNested(value)) copyOut(value, buffers);
  }
}

/**
 * Makes messages independent of the bytes they were parsed from: what still lies in them (strings, small tensors, unknown
 * fields) is copied out. One string of an attribute would keep hundreds of megabytes otherwise.
 */
export function letGoOf(bytes: Iterable<ArrayBufferLike>, messages: readonly object[]): void {
  const buffers = new Set(bytes);
  for (const message of messages) copyOut(message, buffers);
}
