import { isJsonObject, type JsonObject } from '@shoal/core';

/**
 * A step into an object, written as Kubernetes writes it in `managedFields`: `f:name` for a field,
 * `k:{"name":"a"}` for the item of a list with keys, `v:"x"` for the item of a set.
 */
export type PathElement = string;
export type Path = readonly PathElement[];

/** Deeper fields are nobody's: no object of Kubernetes' is so deep. */
const MAX_DEPTH = 64;

/**
 * A set of paths into an object: the fields somebody owns.
 * Source: Kubernetes, `FieldsV1`; sigs.k8s.io/structured-merge-diff, package fieldpath.
 */
export class FieldSet {
  readonly #members = new Set<PathElement>();
  readonly #children = new Map<PathElement, FieldSet>();

  static of(paths: Iterable<Path>): FieldSet {
    const set = new FieldSet();
    for (const path of paths) set.add(path);
    return set;
  }

  /** Reads the `fieldsV1` of a managed-fields entry. */
  static fromFieldsV1(fields: unknown, depth = 0): FieldSet {
    const set = new FieldSet();
    if (!isJsonObject(fields) || depth > MAX_DEPTH) return set;
    for (const [element, inner] of Object.entries(fields)) {
      if (element === '.') continue;
      const child = FieldSet.fromFieldsV1(inner, depth + 1);
      const isLeaf = !isJsonObject(inner) || Object.keys(inner).length === 0 || '.' in inner;
      if (isLeaf) set.#members.add(element);
      if (!child.isEmpty) set.#children.set(element, child);
    }
    return set;
  }

  toFieldsV1(): JsonObject {
    const elements = new Set([...this.#members, ...this.#children.keys()]);
    const fields: JsonObject = {};
    for (const element of [...elements].toSorted()) {
      const child = this.#children.get(element);
      const own = this.#members.has(element) && child !== undefined ? { '.': {} } : {};
      fields[element] = { ...own, ...child?.toFieldsV1() };
    }
    return fields;
  }

  get isEmpty(): boolean {
    return this.#members.size === 0 && this.#children.size === 0;
  }

  /** @param path At least one element. */
  add(path: Path): void {
    const [first, ...rest] = path;
    if (first === undefined) return;
    if (rest.length === 0) this.#members.add(first);
    else this.#childToChange(first).add(rest);
  }

  #childToChange(element: PathElement): FieldSet {
    let child = this.#children.get(element);
    if (!child) {
      child = new FieldSet();
      this.#children.set(element, child);
    }
    return child;
  }

  has(path: Path): boolean {
    const [first, ...rest] = path;
    if (first === undefined) return false;
    return rest.length === 0
      ? this.#members.has(first)
      : (this.#children.get(first)?.has(rest) ?? false);
  }

  hasMember(element: PathElement): boolean {
    return this.#members.has(element);
  }

  /** What lies below one element. */
  below(element: PathElement): FieldSet | undefined {
    return this.#children.get(element);
  }

  children(): Iterable<[PathElement, FieldSet]> {
    return this.#children;
  }

  *paths(prefix: Path = []): Generator<Path> {
    for (const element of this.#members) yield [...prefix, element];
    for (const [element, child] of this.#children) yield* child.paths([...prefix, element]);
  }

  #filter(keep: (path: Path) => boolean): FieldSet {
    return FieldSet.of([...this.paths()].filter(keep));
  }

  union(other: FieldSet): FieldSet {
    return FieldSet.of([...this.paths(), ...other.paths()]);
  }

  intersection(other: FieldSet): FieldSet {
    return this.#filter((path) => other.has(path));
  }

  difference(other: FieldSet): FieldSet {
    return this.#filter((path) => !other.has(path));
  }

  equals(other: FieldSet): boolean {
    return this.difference(other).isEmpty && other.difference(this).isEmpty;
  }
}

/** `.spec.containers[name="a"].image`: how a path is written in messages. */
export function pathText(path: Path): string {
  return path.map(elementText).join('');
}

function elementText(element: PathElement): string {
  const body = element.slice(2);
  if (element.startsWith('f:')) return `.${body}`;
  if (element.startsWith('v:')) return `[=${body}]`;
  const keys = Object.entries(JSON.parse(body) as JsonObject);
  return `[${keys.map(([k, v]) => `${k}=${JSON.stringify(v)}`).join(',')}]`;
}
