import type { AttributeProto, NodeProto } from './onnx_pb.ts';

/** Attributes of a node, by name, with defaults. */
export class Attributes {
  readonly #byName: Map<string, AttributeProto>;

  constructor(node: NodeProto) {
    this.#byName = new Map(node.attribute.map((a) => [a.name, a]));
  }

  int(name: string, fallback: number): number {
    const found = this.#byName.get(name);
    return found ? Number(found.i) : fallback;
  }

  ints(name: string, fallback: readonly number[]): number[] {
    const found = this.#byName.get(name);
    return found ? found.ints.map(Number) : [...fallback];
  }

  float(name: string, fallback: number): number {
    return this.#byName.get(name)?.f ?? fallback;
  }

  floats(name: string, fallback: readonly number[]): number[] {
    const found = this.#byName.get(name);
    return found ? [...found.floats] : [...fallback];
  }

  has(name: string): boolean {
    return this.#byName.has(name);
  }

  text(name: string, fallback: string): string {
    const found = this.#byName.get(name);
    return found ? new TextDecoder().decode(found.s) : fallback;
  }
}
