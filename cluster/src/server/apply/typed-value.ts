import { isDeepStrictEqual } from 'node:util';
import { isJsonObject, type JsonObject, type ResolveRef, type StructuralSchema } from '@shoal/core';
import { FieldSet, type Path, type PathElement } from './field-set.ts';

/**
 * What a place in an object is to server-side apply: replaced as a whole, a map merged by field, a
 * list merged by keys, or a set. Source: Kubernetes documentation, "Server-Side Apply", merge
 * strategy; sigs.k8s.io/structured-merge-diff, package typed.
 */
export class Shape {
  readonly #schema: StructuralSchema;
  readonly #resolve: ResolveRef;

  constructor(schema: StructuralSchema, resolve: ResolveRef) {
    this.#resolve = resolve;
    this.#schema = schema.$ref === undefined ? schema : { ...schema, ...resolve(schema.$ref) };
  }

  isMap(value: unknown): value is JsonObject {
    return isJsonObject(value) && this.#schema['x-kubernetes-map-type'] !== 'atomic';
  }

  isList(value: unknown): value is unknown[] {
    const kind = this.#schema['x-kubernetes-list-type'];
    return Array.isArray(value) && (kind === 'map' || kind === 'set');
  }

  /** True for a field the schema names; a key of a map is not. */
  declares(element: PathElement): boolean {
    return element.startsWith('f:') && this.#schema.properties?.[element.slice(2)] !== undefined;
  }

  below(element: PathElement): Shape {
    const { properties, additionalProperties, items } = this.#schema;
    if (!element.startsWith('f:')) return new Shape(items ?? {}, this.#resolve);
    const rest = typeof additionalProperties === 'object' ? additionalProperties : {};
    return new Shape(properties?.[element.slice(2)] ?? rest, this.#resolve);
  }

  /** How an item of a list is called: by its keys, or by its value. */
  elementOf(item: unknown): PathElement {
    if (this.#schema['x-kubernetes-list-type'] !== 'map') return `v:${JSON.stringify(item)}`;
    const keys = [...(this.#schema['x-kubernetes-list-map-keys'] ?? [])].toSorted();
    const shape = this.below('v:');
    const named = keys.map((key) => {
      const given = isJsonObject(item) ? item[key] : undefined;
      return [key, given ?? shape.#schema.properties?.[key]?.default] as const;
    });
    return `k:${JSON.stringify(Object.fromEntries(named.filter(([, v]) => v !== undefined)))}`;
  }

  /** The set with the declared fields that lead to its members as members. */
  withNamedFields(set: FieldSet): FieldSet {
    const result = FieldSet.of(set.paths());
    for (const [element, child] of set.children()) {
      if (this.declares(element)) result.add([element]);
      for (const path of this.below(element).withNamedFields(child).paths())
        result.add([element, ...path]);
    }
    return result;
  }
}

/** A value with its shape. */
export class TypedValue {
  readonly value: unknown;
  readonly #shape: Shape;

  constructor(value: unknown, shape: Shape) {
    this.value = value;
    this.#shape = shape;
  }

  with(value: unknown): TypedValue {
    return new TypedValue(value, this.#shape);
  }

  get #isMap(): boolean {
    return this.#shape.isMap(this.value);
  }

  get #isList(): boolean {
    return this.#shape.isList(this.value);
  }

  get #isGranular(): boolean {
    return this.#isMap || this.#isList;
  }

  /** Without members, whatever it is. */
  get #isEmpty(): boolean {
    return typeof this.value === 'object' && Object.keys(this.value ?? {}).length === 0;
  }

  /** The parts of a granular value, by path element. */
  parts(): Map<PathElement, TypedValue> {
    const { value } = this;
    if (this.#shape.isMap(value)) {
      return new Map(Object.entries(value).map(([key, inner]) => this.#part(`f:${key}`, inner)));
    }
    if (!this.#shape.isList(value)) return new Map();
    return new Map(value.map((item) => this.#part(this.#shape.elementOf(item), item)));
  }

  #part(element: PathElement, value: unknown): [PathElement, TypedValue] {
    return [element, new TypedValue(value, this.#shape.below(element))];
  }

  /** The fields that somebody who states this value owns. */
  fieldSet(): FieldSet {
    const set = new FieldSet();
    this.#collect([], set);
    return set;
  }

  #collect(path: Path, into: FieldSet): void {
    if (!this.#isGranular) return into.add(path);
    for (const [element, part] of this.parts()) {
      const here = [...path, element];
      part.#collect(here, into);
      const emptyMap = part.#isEmpty && !Array.isArray(part.value);
      if (emptyMap || !this.#shape.declares(element)) into.add(here);
    }
  }

  /** What would be different if this value became `next`. */
  compare(next: TypedValue): Comparison {
    const found = { added: new FieldSet(), modified: new FieldSet(), removed: new FieldSet() };
    this.#compareInto(next, [], found);
    return found;
  }

  #compareInto(next: TypedValue, path: Path, found: Comparison): void {
    if (this.value === next.value) return;
    const granular = (this.#isMap && next.#isMap) || (this.#isList && next.#isList);
    if (!granular || (this.#isEmpty && next.#isEmpty)) {
      if (!isDeepStrictEqual(this.value, next.value)) found.modified.add(path);
      return;
    }
    const before = this.parts();
    const after = next.parts();
    for (const [element, part] of before) {
      const match = after.get(element);
      const here = [...path, element];
      if (match) part.#compareInto(match, here, found);
      else part.#everyPath(here, found.removed);
    }
    for (const [element, part] of after) {
      if (!before.has(element)) part.#everyPath([...path, element], found.added);
    }
  }

  /** This place and every one below it. */
  #everyPath(path: Path, into: FieldSet): void {
    into.add(path);
    for (const [element, part] of this.parts()) part.#everyPath([...path, element], into);
  }

  /** This value with what `config` states put in; what it is silent about stays. */
  merge(config: TypedValue): unknown {
    if (this.#isMap && config.#isMap) return this.#mergeMap(config);
    if (this.#isList && config.#isList) return this.#mergeList(config);
    return config.value;
  }

  #mergeMap(config: TypedValue): JsonObject {
    const result: JsonObject = { ...(this.value as JsonObject) };
    const before = this.parts();
    for (const [element, stated] of config.parts())
      result[element.slice(2)] = before.get(element)?.merge(stated) ?? stated.value;
    return result;
  }

  /**
   * Stated items in the order of the config; items it does not name before the shared item they
   * stood in front of, as structured-merge-diff orders them.
   */
  #mergeList(config: TypedValue): unknown[] {
    const before = this.parts();
    const stated = config.parts();
    const left = [...before.keys()];
    const right = [...stated.keys()];
    const shared = right.filter((element) => before.has(element));
    const merged = new Set<PathElement>();
    const result: unknown[] = [];
    const take = (element: PathElement): void => {
      const part = stated.get(element);
      merged.add(element);
      result.push(part ? (before.get(element)?.merge(part) ?? part.value) : undefined);
      if (shared[0] === element) shared.shift();
    };
    while (left.length > 0 || right.length > 0) {
      const [l, r] = [left[0], right[0]];
      if (l !== undefined && l === r) {
        take(l);
        left.shift();
        right.shift();
      } else if (
        l !== undefined &&
        r !== undefined &&
        stated.has(l) &&
        shared[0] !== l &&
        shared.length > 0
      ) {
        left.shift();
      } else if (l !== undefined && !stated.has(l)) {
        result.push(before.get(l)?.value);
        left.shift();
      } else {
        if (l !== undefined && merged.has(l)) left.shift();
        if (r !== undefined) take(right.shift() ?? r);
      }
    }
    return result;
  }

  /** This value without the places of a set. */
  without(places: FieldSet): unknown {
    if (places.isEmpty || !this.#isGranular || this.#isEmpty) return this.value;
    const kept = [...this.parts()].filter(([element]) => !places.hasMember(element));
    const left = kept.map(([element, part]) => {
      const below = places.below(element);
      return [element.slice(2), below ? part.without(below) : part.value] as const;
    });
    return this.#isMap ? Object.fromEntries(left) : left.map(([, inner]) => inner);
  }

  /** {@link Shape.withNamedFields} of this value's shape. */
  withNamedFields(set: FieldSet): FieldSet {
    return this.#shape.withNamedFields(set);
  }
}

export interface Comparison {
  readonly added: FieldSet;
  readonly modified: FieldSet;
  readonly removed: FieldSet;
}
