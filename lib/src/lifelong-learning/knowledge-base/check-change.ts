import { isDigest, ShoalError } from '@shoal/core';
import type { Change, KnowledgeSample } from './knowledge-base.ts';

const MAX_NAME = 253;
const MAX_JSON = 4 * 1024 * 1024;
/** Bytes of one sample's values. */
export const MAX_SAMPLE_BYTES: number = 4 * 1024 * 1024;

function refuse(message: string): never {
  throw new ShoalError('invalid_argument', message);
}

function expectName(value: string, what: string): void {
  if (value.length === 0 || value.length > MAX_NAME || /\p{Cc}/u.test(value))
    refuse(
      `${what} must be 1 to ${MAX_NAME} printable characters, got ${JSON.stringify(value.slice(0, 40))}`,
    );
}

function expectRevision(value: number, what: string): void {
  if (!Number.isInteger(value) || value < 1 || value > 2 ** 31)
    refuse(`${what}: revision must be a whole number from 1, got ${value}`);
}

function expectFinite(values: Readonly<Record<string, number>>, what: string): void {
  for (const [name, value] of Object.entries(values))
    if (!Number.isFinite(value)) refuse(`${what}: metric ${name} is ${value}`);
}

function expectSmall(value: object, what: string): void {
  const { length } = JSON.stringify(value);
  if (length > MAX_JSON)
    refuse(`${what} is ${length} characters long, at most ${MAX_JSON} are kept`);
}

function checkSample(sample: KnowledgeSample): void {
  expectName(sample.id, 'the id of a sample');
  expectName(sample.edge, 'the edge of a sample');
  const wanted = sample.shape.reduce((n, d) => n * d, 1);
  if (sample.shape.some((d) => !Number.isInteger(d) || d < 1) || wanted !== sample.inputs.length)
    refuse(
      `sample ${sample.id} has ${sample.inputs.length} values, its shape is [${sample.shape.join(', ')}]`,
    );
  if (sample.inputs.byteLength > MAX_SAMPLE_BYTES)
    refuse(
      `sample ${sample.id} has ${sample.inputs.byteLength} bytes, at most ${MAX_SAMPLE_BYTES} are kept`,
    );
}

function checkTask(task: Extract<Change, { kind: 'task' }>['task']): void {
  expectName(task.name, 'the name of a task');
  expectRevision(task.revision, `task ${task.name}`);
  if (!isDigest(task.model)) refuse(`task ${task.name}: "${task.model}" is not a digest`);
  expectFinite(task.metrics, `task ${task.name}`);
  expectSmall(task.knowledge, `the knowledge of task ${task.name}`);
}

/** Checks a change by itself. @throws ShoalError `invalid_argument` saying what is wrong with it. */
export function checkChange(change: Change): void {
  switch (change.kind) {
    case 'task':
      return checkTask(change.task);
    case 'verdict':
      expectName(change.task, 'the name of a task');
      expectRevision(change.revision, `task ${change.task}`);
      return expectFinite(change.metrics ?? {}, `task ${change.task}`);
    case 'shared':
      expectName(change.shared.name, 'the name of a shared value');
      expectRevision(change.shared.revision, `shared value ${change.shared.name}`);
      return expectSmall(change.shared.value, `shared value ${change.shared.name}`);
    case 'relation':
      expectRevision(change.relation.revision, 'a relation');
      if (!Number.isFinite(change.relation.value))
        refuse(
          `the relation of ${change.relation.from} to ${change.relation.to} is ${change.relation.value}`,
        );
      return undefined;
    case 'sample':
      return checkSample(change.sample);
    case 'label':
      expectName(change.sample, 'the id of a sample');
      if (!Number.isInteger(change.label) || change.label < 0)
        refuse(
          `sample ${change.sample}: the label must be a whole number from 0, got ${change.label}`,
        );
      return undefined;
    case 'usage':
      expectName(change.edge, 'the name of an edge');
      for (const [name, value] of Object.entries(change.counters))
        if (!Number.isSafeInteger(value) || value < 0)
          refuse(`counter ${name} of ${change.edge} must be a whole number from 0, got ${value}`);
      return undefined;
  }
}
