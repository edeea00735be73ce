/** What should be: the objects of the cluster, and every state a node may have seen of them. */

export interface Desired {
  readonly uid: string;
  readonly version: number;
  readonly nodes: ReadonlySet<string>;
}

/** Objects of this name have no kind: an edge must refuse them and go on. */
export const POISON = 'poison';

/** A state of an object at a node: the version of its body, or absent. */
type Seen = number | 'absent';

export class Truth {
  readonly objects: Map<string, Desired | undefined> = new Map();
  readonly #histories = new Map<string, Seen[]>();
  #version = 0;

  readonly nodes: readonly string[];

  constructor(nodes: readonly string[]) {
    this.nodes = nodes;
  }

  put(name: string, uid: string, nodes: ReadonlySet<string>): Desired {
    const desired = { uid, version: ++this.#version, nodes };
    this.objects.set(name, desired);
    for (const node of this.nodes)
      this.#push(node, name, nodes.has(node) ? desired.version : 'absent');
    return desired;
  }

  remove(name: string): void {
    this.objects.set(name, undefined);
    for (const node of this.nodes) this.#push(node, name, 'absent');
  }

  #push(node: string, name: string, state: Seen): void {
    const history = this.history(node, name);
    if (history.at(-1) !== state) history.push(state);
  }

  history(node: string, name: string): Seen[] {
    const key = `${node} ${name}`;
    let history = this.#histories.get(key);
    if (!history) {
      history = ['absent'];
      this.#histories.set(key, history);
    }
    return history;
  }

  /** Versions that a node should have now, by name. */
  scope(node: string): Map<string, number> {
    const scope = new Map<string, number>();
    for (const [name, desired] of this.objects)
      if (desired?.nodes.has(node) && name !== POISON) scope.set(name, desired.version);
    return scope;
  }
}
