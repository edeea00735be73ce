import { ShoalError } from '@shoal/core';
import type * as ort from 'onnxruntime-node';
import { type Feeds, floats } from './batch.ts';
import { type Block, blocksOf, type Member } from './blocks.ts';
import type { Parameter } from './candidates.ts';
import { sizeOf } from './onnx/tensor-data.ts';
import type { Plan } from './plan.ts';
import {
  type Companion,
  companionName,
  companionsOf,
  stateName,
  type TrainingGraph,
} from './training-graphs.ts';

interface Place {
  readonly block: Block;
  readonly member: Member;
}

type Tensors = ReadonlyMap<string, Float32Array>;

function flat(size: number): ort.Tensor {
  return floats(new Float32Array(size), [size]);
}

function dataOf(tensor: ort.Tensor | undefined): Float32Array {
  if (tensor?.data instanceof Float32Array) return tensor.data;
  throw new Error('a training tensor is not float32');
}

/**
 * Everything a training keeps between steps, in buffers the runtime reads and writes: parameters
 * and running statistics twice (the next values go to the spare, then the two swap), optimizer
 * state and companions once (the runtime replaces them in place).
 */
export class TrainingState {
  readonly parameters: readonly Parameter[];
  readonly buffers: readonly Parameter[];
  readonly blocks: readonly Block[];
  readonly bufferBlocks: readonly Block[];
  readonly #slots: readonly string[];
  readonly #companions: readonly Companion[];
  #current: Feeds = {};
  #spare: Feeds = {};
  readonly #beside: Feeds = {};
  readonly #places = new Map<string, Place>();

  /** @param fill Writes the first values of a parameter or running statistic. */
  constructor(
    plan: Plan,
    parameters: readonly Parameter[],
    fill: (name: string, into: Float32Array) => void,
  ) {
    this.parameters = parameters;
    this.buffers = plan.buffers;
    this.#slots = plan.optimizer.slots;
    this.#companions = companionsOf(plan);
    this.blocks = blocksOf(parameters, 'shoal/parameters');
    this.bufferBlocks = blocksOf(plan.buffers, 'shoal/buffers');
    for (const block of [...this.blocks, ...this.bufferBlocks]) {
      this.#current[block.name] = flat(block.size);
      this.#spare[block.name] = flat(block.size);
      for (const member of block.members) {
        this.#places.set(member.name, { block, member });
        fill(member.name, this.values(member.name));
      }
    }
    for (const { name, size } of this.blocks) {
      for (const slot of this.#slots) this.#beside[stateName(name, slot)] = flat(size);
      for (const companion of this.#companions)
        this.#beside[companionName(name, companion)] = flat(size);
      if (this.#companions.includes('anchor'))
        dataOf(this.#beside[companionName(name, 'anchor')]).set(dataOf(this.#current[name]));
    }
  }

  #placeOf(name: string): Place {
    const place = this.#places.get(name);
    if (!place) throw new Error(`parameter ${name} is not kept`);
    return place;
  }

  has(name: string): boolean {
    return this.#places.has(name);
  }

  #view(name: string, tensorOf: (block: string) => ort.Tensor | undefined): Float32Array {
    const { block, member } = this.#placeOf(name);
    return dataOf(tensorOf(block.name)).subarray(member.offset, member.offset + member.size);
  }

  /** The current values of a parameter or running statistic; valid until the next step. */
  values(name: string): Float32Array {
    return this.#view(name, (block) => this.#current[block]);
  }

  companion(name: string, companion: Companion): Float32Array {
    return this.#view(name, (block) => this.#beside[companionName(block, companion)]);
  }

  keeps(companion: Companion): boolean {
    return this.#companions.includes(companion);
  }

  /** Parameters and running statistics in their own shapes, for tracing. */
  memberFeeds(): Feeds {
    const members = [...this.parameters, ...this.buffers];
    return Object.fromEntries(members.map((p) => [p.name, floats(this.values(p.name), p.shape)]));
  }

  /** Parameters and running statistics as blocks. */
  valueFeeds(): Feeds {
    return this.#current;
  }

  /** Optimizer state and companions as blocks. */
  besideFeeds(): Feeds {
    return this.#beside;
  }

  /** Where a graph writes its results. */
  fetches(graph: Pick<TrainingGraph, 'results' | 'state'>): Record<string, ort.Tensor | null> {
    const places: Record<string, ort.Tensor | null> = {};
    for (const [name, result] of [...graph.results, ...graph.state])
      places[result] = this.#spare[name] ?? this.#beside[name] ?? null;
    return places;
  }

  /** Where several steps at once write their results: the state they began with stays until they have succeeded. */
  fetchesOfMany(
    graph: Pick<TrainingGraph, 'results' | 'state'>,
  ): Record<string, ort.Tensor | null> {
    const places = this.fetches(graph);
    for (const [name, result] of graph.state) if (name in this.#beside) places[result] = null;
    return places;
  }

  /** Takes the optimizer state that several steps gave. */
  takeState(graph: Pick<TrainingGraph, 'state'>, results: Readonly<Record<string, unknown>>): void {
    for (const [name, result] of graph.state)
      if (name in this.#beside) this.#beside[name] = results[result] as ort.Tensor;
  }

  /** A parameter whose values written last are not finite; undefined when they all are. */
  notFinite(): string | undefined {
    return this.parameters.find(({ name }) => {
      const values = this.#view(name, (block) => this.#spare[block]);
      return !values.every(Number.isFinite);
    })?.name;
  }

  /** Makes the values written last the current ones. */
  swap(): void {
    [this.#current, this.#spare] = [this.#spare, this.#current];
  }

  /** Carries running statistics over a step that does not write them. */
  keepBuffers(): void {
    for (const { name } of this.bufferBlocks)
      dataOf(this.#spare[name]).set(dataOf(this.#current[name]));
  }

  resetOptimizer(): void {
    for (const { name } of this.blocks)
      for (const slot of this.#slots) dataOf(this.#beside[stateName(name, slot)]).fill(0);
  }

  /** Cuts blocks as a graph gives them into copies of their members. */
  cut(blocks: ReadonlyMap<string, Float32Array>): Map<string, Float32Array> {
    return new Map(
      this.parameters.map(({ name }) => {
        const { block, member } = this.#placeOf(name);
        const values = blocks.get(block.name) ?? new Float32Array();
        return [name, values.slice(member.offset, member.offset + member.size)];
      }),
    );
  }

  /**
   * Lays values of all parameters out as blocks.
   *
   * @throws ShoalError `invalid_argument` for a missing one or a wrong length.
   */
  join(values: Tensors): Feeds {
    const feeds: Feeds = {};
    for (const { name, size } of this.blocks) feeds[name] = flat(size);
    for (const { name, shape } of this.parameters) {
      const given = values.get(name);
      if (given?.length !== sizeOf(shape)) {
        throw new ShoalError(
          'invalid_argument',
          `parameter "${name}" of shape [${shape.join(', ')}] got a gradient of ${given?.length ?? 'no'} values`,
        );
      }
      const { block, member } = this.#placeOf(name);
      dataOf(feeds[block.name]).set(given, member.offset);
    }
    return feeds;
  }
}
