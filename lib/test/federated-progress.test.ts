import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { fileProgress } from '../src/index.ts';
import {
  cleanUp,
  digestOfModel,
  folder,
  join_,
  SIZE,
  serve,
  ToyModel,
  undisturbed,
} from './toy-federation.ts';

afterEach(cleanUp);

type Result = Awaited<ReturnType<ToyModel['train']>>;

/** Carries how many rounds it trained, and sends something else in some. */
class CarryingModel extends ToyModel {
  steps = new Float32Array(1);
  own = new Float32Array(1);
  readonly #spoil: (round: number, honest: Result) => Result;

  constructor(id: number, spoil: (round: number, honest: Result) => Result = (_r, h) => h) {
    super(id);
    this.#spoil = spoil;
  }

  override async train(
    vector: Float32Array,
    task: { round: number; evaluateOnly: boolean },
  ): Promise<Result> {
    const honest = await super.train(vector, task);
    if (!task.evaluateOnly) {
      this.steps = this.steps.map((v) => v + 1);
      this.own = this.own.map((v) => v + 1);
    }
    return this.#spoil(task.round, honest);
  }

  carried() {
    return { shared: { steps: this.steps }, own: { own: this.own } };
  }

  carry({ steps, own }: Readonly<Record<string, Float32Array>>): void {
    this.steps = new Float32Array(steps ?? [0]);
    this.own = new Float32Array(own ?? [0]);
  }
}

test('what goes with an update that does not count is taken back; what is its own stays', async () => {
  const { server, address } = await serve({ quorum: 2, deadlineMs: 1_000, retries: 0 });
  const model = new CarryingModel(3, (round, honest) =>
    round === 2 ? { ...honest, delta: honest.delta.map(() => Number.NaN) } : honest,
  );
  const refused: string[] = [];
  for (const id of [1, 2]) join_(address, new ToyModel(id), id);
  const { done } = join_(address, model, 3, {
    onRefused: (round, reason) => refused.push(`${round}: ${reason}`),
  });
  const { history } = await server.done;
  await done;
  expect(history.map((h) => h.participants)).toEqual([3, 2, 3, 3, 3]);
  expect(refused).toEqual(['2: the update holds NaN or infinite values']);
  expect([model.steps[0], model.own[0]]).toEqual([3, 4]);
});

test('a process that is gone after its update was taken, or before, goes on where it was', async () => {
  const wanted = await undisturbed();
  const dir = folder();
  const { server, address } = await serve();
  for (const id of [1, 2]) join_(address, new ToyModel(id), id);
  const steps: number[] = [];
  for (let life = 1; life <= 4; life++) {
    const model = new CarryingModel(3);
    let [stop, trained] = [(): void => undefined, 0];
    const process = join_(address, model, 3, {
      progress: fileProgress(dir),
      onRound: () => {
        trained++;
        // With nothing sent yet; once it was told that it counts; when that is not known.
        if (life === 1) stop();
        if (life === 2 && trained === 2) stop();
        if (life === 3) setImmediate(stop);
      },
    });
    stop = process.stop;
    await process.done.catch(() => undefined);
    steps.push(model.steps[0] ?? 0);
  }
  const result = await server.done;
  expect(steps.at(-1)).toBe(4);
  expect(digestOfModel(result)).toBe(digestOfModel(wanted));
});

test('what was kept is read as it was written; what is something else is refused by name', () => {
  const dir = join(folder(), 'progress-of-p1');
  const store = fileProgress(dir);
  expect(store.load()).toBeUndefined();
  const told = { round: 7, model: 'sha256:1', samples: 3, metrics: { loss: 0.5 } };
  const record = {
    opened: 6,
    pending: [{ ...told, bytes: new Uint8Array([1, 2, 3]), digest: '', encoding: 'int8' }],
    carried: { control: Float32Array.of(1, -2), residual: new Float32Array(SIZE).fill(0.25) },
    before: { control: Float32Array.of(0, 4) },
  };
  store.save(record);
  expect(fileProgress(dir).load()).toEqual(record);
  store.save({ ...record, before: undefined, pending: [] });
  expect(store.load()).toEqual({ ...record, before: undefined, pending: [] });
  const path = join(dir, 'progress');
  const whole = readFileSync(path);
  for (const bad of [
    whole.subarray(0, whole.length - 1),
    Buffer.from('hello there'),
    Buffer.of(1),
  ]) {
    writeFileSync(path, bad);
    expect(() => store.load()).toThrow(/progress is not a participant's progress .*remove it/);
  }
  const file = join(folder(), 'file');
  writeFileSync(file, '');
  expect(() => fileProgress(join(file, 'below'))).toThrow(/making the folder for the participant/);
});
