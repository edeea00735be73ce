/**
 * A shallow copy of a message with some fields replaced. Unlike a spread it keeps the prototype,
 * where protobuf-es holds the defaults of unset fields; unlike `clone` it copies no bytes.
 */
export function revise<T extends object>(message: T, fields: Partial<T>): T {
  return Object.assign(
    Object.create(Object.getPrototypeOf(message) as object) as T,
    message,
    fields,
  );
}
