import { type Random, seededRandom } from '@shoal/core';
import { concatenate, type Samples } from '@shoal/lib';
import type { BenchmarkData, BenchmarkSamples, DataPart } from '../data/benchmark-data.ts';
import { join, pick } from '../data/parts.ts';
import { type Share, shareOut } from '../data/share-out.ts';
import { classGroups } from '../data/split.ts';
import type { PlannedCase } from '../plan/planned-case.ts';
import { labelledOnly } from './federated.ts';

function ofClasses(samples: BenchmarkSamples, classes: readonly bigint[]): BenchmarkSamples {
  const own = Array.from(samples.labels.keys()).filter((i) =>
    classes.includes(samples.labels[i] ?? -1n),
  );
  return pick(samples, own);
}

/** What a participant kept of earlier tasks: so many samples of each class. */
class ClassMemory {
  readonly #perClass: number;
  readonly #random: Random;
  readonly #kept = new Map<string, BenchmarkSamples[]>();

  constructor(perClass: number, random: Random) {
    this.#perClass = perClass;
    this.#random = random;
  }

  /** The samples of a task, and those kept from before. */
  with({ name, train }: Share): Samples {
    return concatenate([train, ...(this.#kept.get(name) ?? [])]);
  }

  keep({ name, train: samples }: Share): void {
    if (this.#perClass === 0) return;
    const counts = new Map<bigint, number>();
    const chosen = Array.from(this.#random.permutation(samples.size)).filter((i) => {
      const label = samples.labels[i] ?? 0n;
      counts.set(label, (counts.get(label) ?? 0) + 1);
      return (counts.get(label) ?? 0) <= this.#perClass;
    });
    this.#kept.set(name, [...(this.#kept.get(name) ?? []), pick(samples, chosen)]);
  }
}

/** Tasks of new classes, and who learns each from what: the seed decides, whoever asks. */
export class ClassTasks {
  readonly tasks: readonly DataPart[];
  readonly #case: PlannedCase;

  /** Tasks in the order of their classes’ numbers; the data may have tasks of its own. */
  constructor(planned: PlannedCase, data: BenchmarkData) {
    this.#case = planned;
    const made = (): DataPart[] =>
      classGroups(data.train, planned.testEnv.incrementalRounds).map((classes) => ({
        name: `classes ${classes.join(' ')}`,
        train: ofClasses(data.train, classes),
        test: ofClasses(data.test, classes),
      }));
    this.tasks = data.tasks ?? made();
  }

  #sharesOf(task: number): Share[] {
    const { testEnv, algorithm, seed } = this.#case;
    const { labelRatio, partition = testEnv.partition } = algorithm;
    const part = this.tasks[task];
    if (!part) throw new Error(`there is no task ${task}`);
    const data: BenchmarkData = { train: part.train, test: part.test };
    const shares = shareOut(data, testEnv.clients, partition, seed + task);
    return labelledOnly(shares, labelRatio, seed + task);
  }

  /** Samples of every participant for a task: its share, and what it kept of the tasks before. */
  samplesOf(task: number): Samples[] {
    const { algorithm, seed } = this.#case;
    const random = seededRandom(seed).fork('memory');
    const memory = new ClassMemory(algorithm.federation.memoryPerClass, random);
    for (let t = 0; t < task; t++) for (const share of this.#sharesOf(t)) memory.keep(share);
    return this.#sharesOf(task).map((share) => memory.with(share));
  }

  /** All samples until a task, in one place. */
  everything(task: number): Samples {
    return join(this.tasks.slice(0, task + 1).map((t) => t.train));
  }
}
