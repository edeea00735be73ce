import { ShoalError } from '@shoal/core';
import { type InspectedValue, type Inspection, inspectModel } from '@shoal/training';
import { renderTable } from '../terminal/table.ts';

export interface InspectFlags {
  readonly output?: string;
  readonly dimension: readonly string[];
  readonly nodes?: boolean;
  readonly json?: boolean;
}

/** Parses `name=size` pairs of the command line. */
export function parseDimensions(pairs: readonly string[]): Record<string, number> {
  return Object.fromEntries(
    pairs.map((pair) => {
      const [name = '', size = ''] = pair.split('=');
      if (name === '' || !/^[1-9]\d*$/.test(size))
        throw new ShoalError('invalid_argument', `--dimension takes name=size, got "${pair}"`);
      return [name, Number(size)];
    }),
  );
}

function shape(value: { readonly dims: readonly (number | string)[] }): string {
  return `[${value.dims.join(', ')}]`;
}

function values(kind: string, list: readonly InspectedValue[]): string[] {
  return list.map((v) => `${kind} ${v.name}  ${v.type} ${shape(v)}`);
}

function thousands(n: number): string {
  return n.toLocaleString('en-US');
}

function verdict(inspection: Inspection): string {
  const { parameters, blockers, refusal } = inspection;
  if (refusal !== undefined && blockers.length === 0) return `It cannot be trained: ${refusal}.`;
  const free = parameters.filter((p) => p.blockedBy === undefined);
  if (blockers.length === 0) return `All ${parameters.length} parameter tensors can be trained.`;
  const list = blockers
    .map((b) => `${b.operator} (node "${b.node}") blocks ${b.parameters}`)
    .join('; ');
  return `${free.length} of ${parameters.length} parameter tensors can be trained. Without gradient: ${list}. Freeze the blocked ones: shoal model train --freeze PATTERN`;
}

/** `shoal model inspect FILE`: graph, parameters, what is trainable, which operator would block training. */
export async function modelInspectCommand(file: string, flags: InspectFlags): Promise<void> {
  const inspection = await inspectModel({
    model: file,
    dimensions: parseDimensions(flags.dimension),
    ...(flags.output === undefined ? {} : { output: flags.output }),
  });
  if (flags.json) {
    process.stdout.write(`${JSON.stringify(inspection)}\n`);
    return;
  }
  const { operators, parameters, nodes } = inspection;
  const total = parameters.reduce((n, p) => n + p.size, 0);
  const lines = [
    `${file}: ONNX operator set ${inspection.opset}${inspection.producer ? `, written by ${inspection.producer}` : ''}`,
    ...values('input ', inspection.inputs),
    ...values('output', inspection.outputs),
    '',
    `operators  ${operators.map((o) => `${o.name} ×${o.count}`).join(', ')}`,
    '',
  ];
  if (flags.nodes) {
    const rows = nodes.map((n) => [n.name, n.operator, n.inputs.join(' '), shape(n)]);
    lines.push(renderTable([['NODE', 'OPERATOR', 'READS', 'GIVES (BATCH 2)'], ...rows]), '');
  }
  const rows = parameters.map((p) => [
    p.name,
    shape(p),
    thousands(p.size),
    p.blockedBy === undefined ? 'yes' : `no: ${p.blockedBy}`,
  ]);
  lines.push(renderTable([['PARAMETER', 'SHAPE', 'VALUES', 'TRAINABLE'], ...rows]), '');
  const { constants } = inspection;
  if (constants.length > 0)
    lines.push(
      `Not trained, taken for numbers, masks or buffers: ${constants.slice(0, 8).join(', ')}${constants.length > 8 ? ` and ${constants.length - 8} more` : ''}`,
    );
  lines.push(`${thousands(total)} values. ${verdict(inspection)}`);
  process.stdout.write(`${lines.join('\n')}\n`);
}
