import type { MessageInitShape } from '@bufbuild/protobuf';
import {
  type KnowledgeChange,
  type KnowledgeChangeSchema,
  type SampleRecord,
  type SampleRecordSchema,
  type SnapshotReply,
  type SnapshotReplySchema,
  type TaskRecord,
  type TaskRecordSchema,
} from '@shoal/api';
import { isJsonObject, type JsonObject, ShoalError } from '@shoal/core';
import {
  type Change,
  type KnowledgeSample,
  type KnowledgeSnapshot,
  type KnowledgeTask,
  TASK_STATES,
  type TaskState,
} from './knowledge-base.ts';

function jsonOf(text: string, what: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text === '' ? '{}' : text);
  } catch (error) {
    throw new ShoalError('invalid_argument', `${what} is not JSON`, { cause: error });
  }
  if (!isJsonObject(value))
    throw new ShoalError('invalid_argument', `${what} is not a JSON object`);
  return value;
}

function stateOf(text: string): TaskState {
  const state = TASK_STATES.find((s) => s === text);
  if (state) return state;
  throw new ShoalError(
    'invalid_argument',
    `"${text}" is not a state of a task; there are ${TASK_STATES.join(', ')}`,
  );
}

/** Fields of a task as they travel. */
export function taskToWire(
  task: Omit<KnowledgeTask, 'state'> & { readonly state?: TaskState },
): MessageInitShape<typeof TaskRecordSchema> {
  return {
    name: task.name,
    revision: task.revision,
    state: task.state ?? '',
    attributes: { ...task.attributes },
    model: task.model,
    modelBytes: BigInt(task.modelBytes),
    samples: BigInt(task.samples),
    metrics: { ...task.metrics },
    classes: [...task.classes],
    knowledge: JSON.stringify(task.knowledge),
    reason: task.reason ?? '',
  };
}

export function taskFromWire(record: TaskRecord): KnowledgeTask {
  const { name, revision, attributes, model, metrics, classes, reason } = record;
  return {
    name,
    revision,
    state: record.state === '' ? 'candidate' : stateOf(record.state),
    attributes,
    model,
    modelBytes: Number(record.modelBytes),
    samples: Number(record.samples),
    metrics,
    classes,
    knowledge: jsonOf(record.knowledge, `the knowledge of task ${name}`),
    ...(reason === '' ? {} : { reason }),
  };
}

export function sampleToWire(sample: KnowledgeSample): MessageInitShape<typeof SampleRecordSchema> {
  const { inputs } = sample;
  return {
    id: sample.id,
    edge: sample.edge,
    task: sample.task,
    attributes: { ...sample.attributes },
    shape: [...sample.shape],
    inputs: new Uint8Array(inputs.buffer, inputs.byteOffset, inputs.byteLength),
    ...(sample.label === undefined ? {} : { label: sample.label }),
    recordedAtMs: BigInt(sample.recordedAtMs),
  };
}

export function sampleFromWire(record: SampleRecord): KnowledgeSample {
  if (record.inputs.length % 4 !== 0)
    throw new ShoalError('invalid_argument', `sample ${record.id}: its values are not float32`);
  return {
    id: record.id,
    edge: record.edge,
    task: record.task,
    attributes: record.attributes,
    shape: record.shape,
    // A Buffer’s slice shares memory; a fresh array begins at a multiple of four.
    inputs: new Float32Array(new Uint8Array(record.inputs).buffer),
    ...(record.label === undefined ? {} : { label: record.label }),
    recordedAtMs: Number(record.recordedAtMs),
  };
}

/** A change as it travels. */
export function changeToWire(change: Change): MessageInitShape<typeof KnowledgeChangeSchema> {
  switch (change.kind) {
    case 'task':
      return { change: { case: 'task', value: taskToWire(change.task) } };
    case 'verdict': {
      const { task, revision, model, state, reason = '', metrics } = change;
      const value = { task, revision, model, state, reason, metrics: { ...metrics } };
      return { change: { case: 'verdict', value } };
    }
    case 'shared': {
      const { name, revision, value } = change.shared;
      return {
        change: { case: 'shared', value: { name, revision, value: JSON.stringify(value) } },
      };
    }
    case 'relation':
      return { change: { case: 'relation', value: { ...change.relation } } };
    case 'sample':
      return { change: { case: 'sample', value: sampleToWire(change.sample) } };
    case 'label': {
      const { sample, label, by, atMs } = change;
      return { change: { case: 'label', value: { sample, label, by, atMs: BigInt(atMs) } } };
    }
    case 'usage': {
      const { edge, counters } = change;
      return { change: { case: 'usage', value: { edge, counters: bigsOf(counters) } } };
    }
  }
}

function bigsOf(values: Readonly<Record<string, number>>): Record<string, bigint> {
  return Object.fromEntries(Object.entries(values).map(([k, v]) => [k, BigInt(v)]));
}

function numbersOf(values: Readonly<Record<string, bigint>>): Record<string, number> {
  return Object.fromEntries(Object.entries(values).map(([k, v]) => [k, Number(v)]));
}

/** @throws ShoalError `invalid_argument` for an empty change or text that is not what it should be. */
export function changeFromWire({ change }: KnowledgeChange): Change {
  switch (change.case) {
    case 'task': {
      const { state: _ignored, ...task } = taskFromWire(change.value);
      return { kind: 'task', task };
    }
    case 'verdict': {
      const { task, revision, model, reason, metrics } = change.value;
      const state = stateOf(change.value.state);
      if (state === 'candidate')
        throw new ShoalError('invalid_argument', `task ${task} cannot become a candidate again`);
      return { kind: 'verdict', task, revision, model, state, reason, metrics };
    }
    case 'shared': {
      const { name, revision, value } = change.value;
      const json = jsonOf(value, `shared value ${name}`);
      return { kind: 'shared', shared: { name, revision, value: json } };
    }
    case 'relation': {
      const { from, to, kind, revision, value } = change.value;
      return { kind: 'relation', relation: { from, to, kind, revision, value } };
    }
    case 'sample':
      return { kind: 'sample', sample: sampleFromWire(change.value) };
    case 'label': {
      const { sample, label, by, atMs } = change.value;
      return { kind: 'label', sample, label, by, atMs: Number(atMs) };
    }
    case 'usage':
      return {
        kind: 'usage',
        edge: change.value.edge,
        counters: numbersOf(change.value.counters),
      };
    case undefined:
      throw new ShoalError('invalid_argument', 'a change says nothing');
  }
}

export function snapshotFromWire(reply: SnapshotReply): KnowledgeSnapshot {
  return {
    version: Number(reply.version),
    tasks: reply.tasks.map(taskFromWire),
    shared: reply.shared.map(({ name, revision, value }) => ({
      name,
      revision,
      value: jsonOf(value, `shared value ${name}`),
    })),
    relations: reply.relations.map(({ from, to, kind, revision, value }) => ({
      from,
      to,
      kind,
      revision,
      value,
    })),
    usage: reply.usage.map(({ edge, counters }) => ({ edge, counters: numbersOf(counters) })),
    unseenSamples: Number(reply.unseenSamples),
    labelledSamples: Number(reply.labelledSamples),
    storedBytes: Number(reply.storedBytes),
  };
}

/** Fields of a snapshot as they travel. */
export function snapshotToWire(
  snapshot: KnowledgeSnapshot,
): MessageInitShape<typeof SnapshotReplySchema> {
  return {
    version: BigInt(snapshot.version),
    tasks: snapshot.tasks.map(taskToWire),
    shared: snapshot.shared.map((s) => ({ ...s, value: JSON.stringify(s.value) })),
    relations: snapshot.relations.map((r) => ({ ...r })),
    usage: snapshot.usage.map(({ edge, counters }) => ({ edge, counters: bigsOf(counters) })),
    unseenSamples: BigInt(snapshot.unseenSamples),
    labelledSamples: BigInt(snapshot.labelledSamples),
    storedBytes: BigInt(snapshot.storedBytes),
  };
}
