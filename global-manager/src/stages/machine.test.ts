import type { StageReport } from '@shoal/api';
import { expect, test } from 'vitest';
import { nextMove, START, type StageFacts, type StagePosition } from './machine.ts';

const NOTHING: StageFacts = {
  report: undefined,
  deployment: undefined,
  pod: { phase: 'None', endedForMs: 0 },
  hotUpdate: true,
  heldMs: 0,
  failures: 0,
};
const at = (stage: StagePosition['stage'], state: StagePosition['state']): StagePosition => ({
  round: 3,
  stage,
  state,
});
const report = (status: StageReport['status'], over: Partial<StageReport> = {}): StageReport => ({
  uid: 'u',
  round: 3,
  stage: 'Train',
  status,
  ...over,
});
const move = (position: StagePosition, facts: Partial<StageFacts>): unknown =>
  nextMove(position, { ...NOTHING, ...facts });
const output = { models: [{ format: 'onnx', url: '/m' }] };

test('a job begins by waiting for training data', () => {
  expect(START).toEqual({ round: 1, stage: 'Train', state: 'Waiting' });
  expect(move(START, {})).toEqual({ kind: 'stay' });
});

// The transition table of the contract, §1.8.
test.each<[string, StagePosition, Partial<StageFacts>, unknown]>([
  [
    'ready',
    at('Train', 'Waiting'),
    { report: report('ready', { input: { dataURL: '/d' } }) },
    { to: at('Train', 'Ready'), data: { input: { dataURL: '/d' } } },
  ],
  [
    'a trigger that declines',
    at('Deploy', 'Waiting'),
    { report: report('completed', { message: 'kept' }) },
    { to: at('Deploy', 'Completed'), message: 'kept' },
  ],
  [
    'a node that fails',
    at('Eval', 'Waiting'),
    { report: report('failed', { message: 'why' }) },
    { to: at('Eval', 'Failed'), message: 'why' },
  ],
  [
    'a pod that is there already',
    at('Train', 'Ready'),
    { pod: { phase: 'Pending', endedForMs: 0 } },
    { to: at('Train', 'Starting') },
  ],
  [
    'the pod runs',
    at('Train', 'Starting'),
    { pod: { phase: 'Running', endedForMs: 0 } },
    { to: at('Train', 'Running') },
  ],
  [
    'the worker completes',
    at('Train', 'Running'),
    { report: report('completed', { output }), pod: { phase: 'Running', endedForMs: 0 } },
    { to: at('Train', 'Completed'), data: { output } },
  ],
  [
    'it completes before it was seen running',
    at('Train', 'Starting'),
    { report: report('completed', { output }), pod: { phase: 'Succeeded', endedForMs: 0 } },
    { to: at('Train', 'Completed') },
  ],
  [
    'the pod fails',
    at('Eval', 'Running'),
    { pod: { phase: 'Failed', endedForMs: 0, message: 'exit code 65' } },
    { to: at('Eval', 'Failed'), message: 'exit code 65' },
  ],
  [
    'a pod that ended without a word',
    at('Train', 'Running'),
    { pod: { phase: 'Succeeded', endedForMs: 60_000 } },
    { to: at('Train', 'Failed') },
  ],
  ['training done', at('Train', 'Completed'), {}, { to: at('Eval', 'Waiting') }],
  ['evaluation done', at('Eval', 'Completed'), {}, { to: at('Deploy', 'Waiting') }],
  [
    'deployment done: the next round',
    at('Deploy', 'Completed'),
    {},
    { to: { round: 4, stage: 'Train', state: 'Waiting' } },
  ],
  [
    'hot update: the inference pod runs',
    at('Deploy', 'Starting'),
    { pod: { phase: 'Running', endedForMs: 0 } },
    { to: at('Deploy', 'Running') },
  ],
  [
    'hot update: the worker took the model',
    at('Deploy', 'Running'),
    { deployment: report('completed') },
    { to: at('Deploy', 'Completed') },
  ],
  [
    'hot update: the worker refused it',
    at('Deploy', 'Running'),
    { deployment: report('failed', { message: 'NaN' }) },
    { to: at('Deploy', 'Failed'), message: 'NaN' },
  ],
  [
    'a failed round starts over',
    at('Eval', 'Failed'),
    { heldMs: 3_000 },
    { to: { round: 4, stage: 'Train', state: 'Waiting' } },
  ],
])('%s', (_what, position, facts, wanted) => {
  expect(move(position, facts)).toMatchObject({ kind: 'go', ...(wanted as object) });
});

test('pods are created once: when there is none', () => {
  expect(move(at('Train', 'Ready'), {})).toEqual({ kind: 'createPod' });
  expect(move(at('Eval', 'Starting'), {})).toEqual({ kind: 'createPod' });
});

test('without hot update the inference pod is restarted once the model is in place', () => {
  expect(move(at('Deploy', 'Starting'), { hotUpdate: false })).toEqual({ kind: 'stay' });
  expect(
    move(at('Deploy', 'Starting'), { hotUpdate: false, deployment: report('completed') }),
  ).toEqual({ kind: 'restartInference' });
});

test('a pod that has just ended gets time for its report; failures wait longer each time', () => {
  expect(
    move(at('Train', 'Running'), { pod: { phase: 'Succeeded', endedForMs: 1_000 } }),
  ).toMatchObject({ kind: 'stay', lookAgainMs: 19_001 });
  const waits = [0, 1, 2, 20].map(
    (failures) =>
      (move(at('Train', 'Failed'), { failures }) as { lookAgainMs: number }).lookAgainMs,
  );
  expect(waits).toEqual([2_000, 4_000, 8_000, 300_000]);
});
