import type { Parameter } from './candidates.ts';
import type { GraphBuilder } from './onnx/graph-builder.ts';
import { sizeOf } from './onnx/tensor-data.ts';

/** A parameter's place in a block. */
export interface Member extends Parameter {
  /** Index of its first value. */
  readonly offset: number;
  readonly size: number;
}

/**
 * Parameters that are stored, fed and updated as one flat tensor. A model with hundreds of small
 * tensors would otherwise spend its time on handing them over and on nodes that do next to nothing.
 */
export interface Block {
  readonly name: string;
  readonly size: number;
  readonly members: readonly Member[];
}

/** Tensors from this size on are a block of their own: joining them would cost copies. */
const LARGE = 16_384;

function blockOf(name: string, parameters: readonly Parameter[]): Block {
  let offset = 0;
  const members = parameters.map(({ name: member, shape }) => {
    const size = sizeOf(shape);
    const at = offset;
    offset += size;
    return { name: member, shape, offset: at, size };
  });
  return { name, size: offset, members };
}

/** Lays parameters out: each large one by itself, the small ones together. Empty for none. */
export function blocksOf(parameters: readonly Parameter[], name: string): Block[] {
  const small = parameters.filter((p) => sizeOf(p.shape) < LARGE);
  const large = parameters.filter((p) => sizeOf(p.shape) >= LARGE);
  return [
    ...large.map((p) => blockOf(`${name}/${p.name}`, [p])),
    ...(small.length > 0 ? [blockOf(`${name}/small`, small)] : []),
  ];
}

/** Takes blocks as inputs of a graph and gives every member its own name and shape. */
export function openBlocks(builder: GraphBuilder, blocks: readonly Block[]): void {
  for (const { name, size, members } of blocks) {
    builder.input(name, [size]);
    const parts =
      members.length === 1
        ? [name]
        : builder.nodeWithOutputs('Split', [name, builder.ints(members.map((m) => m.size))], {
            attributes: { axis: 0 },
            outputs: members.length,
          });
    for (const [i, member] of members.entries())
      builder.node('Reshape', [parts[i] ?? '', builder.ints(member.shape)], {}, member.name);
  }
}

/** The values of a block's members, as one flat value. */
export function joinBlock(
  builder: GraphBuilder,
  block: Block,
  values: ReadonlyMap<string, string>,
): string {
  const flat = block.members.map((m) =>
    builder.node('Reshape', [values.get(m.name) ?? '', builder.ints([m.size])]),
  );
  return flat.length === 1 ? (flat[0] ?? '') : builder.node('Concat', flat, { axis: 0 });
}
