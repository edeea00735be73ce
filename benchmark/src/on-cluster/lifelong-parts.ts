import { readFileSync } from 'node:fs';
import { type ComponentChoices, readTaskSamples, type TaskSamples } from '@shoal/lib';
import type { LifelongBase } from '../paradigms/lifelong.ts';
import { componentsOf } from '../paradigms/lifelong.ts';
import { moduleOf } from '../plan/module-file.ts';
import { plannedHere } from './planned.ts';

/** Name of a column of values; every other column but `label` is an attribute. */
const VALUE = /^x\d+$/;

/** Samples as a file that arrives line by line. */
export function toCsv(samples: TaskSamples, withHead: boolean): string {
  const width = samples.inputs.length / samples.size;
  const names = Object.keys(samples.attributes);
  const head = [...Array.from({ length: width }, (_, f) => `x${f}`), ...names, 'label'];
  const rows = Array.from({ length: samples.size }, (_, i) => [
    ...Array.from(samples.inputs.subarray(i * width, (i + 1) * width), (v) =>
      Number.isNaN(v) ? '' : String(v),
    ),
    ...names.map((n) => samples.attributes[n]?.[i] ?? ''),
    String(samples.labels[i]),
  ]);
  return [...(withHead ? [head] : []), ...rows].map((r) => `${r.join(',')}\n`).join('');
}

function read(path: string): TaskSamples {
  const [head = ''] = readFileSync(path, 'utf8').split('\n', 1);
  const attributes = head.split(',').filter((h) => !VALUE.test(h) && h !== 'label');
  return readTaskSamples(path, { attributes, target: 'label' });
}

/** What the workers of a lifelong case are made of. */
export async function lifelongParts(): Promise<{
  create: LifelongBase['create'];
  components: ComponentChoices;
  read: (path: string) => TaskSamples;
}> {
  const planned = plannedHere();
  const inputShape = JSON.parse(process.env['SHOAL_BENCH_SHAPE'] ?? '[]') as number[];
  const { create } = await moduleOf<LifelongBase>(planned, 'basemodel', {
    folder: process.cwd(),
    signal: new AbortController().signal,
    inputShape,
  });
  return { create, components: componentsOf(planned), read };
}
