import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { isJsonObject, messageOf, ShoalError } from '@shoal/core';
import {
  allocationByAttribute,
  allocationByOrigin,
  firstTask,
  leastStrange,
  nearestCentroid,
  type TaskAllocation,
  taskClassifier,
} from './allocation.ts';
import {
  enoughSamples,
  ensembleAnswers,
  fallbackAnswers,
  nearestAnswers,
  sharedBackbone,
  singleModels,
  type TaskRemodeling,
  type TaskUpdateDecision,
  tunedCopies,
  type UnseenProcessing,
} from './decisions.ts';
import {
  definitionByAttribute,
  definitionByCluster,
  definitionByDrift,
  definitionByOrigin,
  type TaskDefinition,
} from './definition.ts';
import { type InferenceIntegration, weightedMean, weightedVote } from './integration.ts';
import {
  conformal,
  energyScore,
  everySampleSeen,
  mahalanobisScore,
  neighbourScore,
  probabilityScore,
  type UnseenSampleRecognition,
} from './recognition.ts';
import {
  separateTasks,
  similarTasks,
  type TaskRelationDiscovery,
  transferMatrix,
} from './relation.ts';
import { type UnseenTaskDetection, windowDetection } from './unseen-task.ts';

/** A component by name, or by the path of a file of yours (see {@link resolveComponents}). */
export interface ComponentChoice {
  readonly method: string;
  /** Parameters, or JSON of them; numbers may be text, as they are in manifests. */
  readonly param?: Readonly<Record<string, unknown>> | string;
}

/** One component per slot. */
export interface LifelongComponents {
  readonly taskDefinition: TaskDefinition;
  readonly taskRelationDiscovery: TaskRelationDiscovery;
  readonly taskAllocation: TaskAllocation;
  readonly taskRemodeling: TaskRemodeling;
  readonly inferenceIntegrate: InferenceIntegration;
  readonly taskUpdateDecision: TaskUpdateDecision;
  readonly unseenTaskAllocation: UnseenProcessing;
  readonly unseenSampleRecognition: UnseenSampleRecognition;
  readonly unseenTaskDetection: UnseenTaskDetection;
}

/** Choices by slot; a slot that is not named gets its default. */
export type ComponentChoices = { readonly [K in keyof LifelongComponents]?: ComponentChoice };

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** Parameters of a component, read by name and checked. */
class Parameters {
  readonly #values: Readonly<Record<string, unknown>>;
  readonly #where: string;

  constructor(choice: ComponentChoice, slot: string) {
    this.#where = `${slot} ${choice.method}`;
    const { param = {} } = choice;
    this.#values = typeof param === 'string' ? this.#parse(param) : param;
  }

  #parse(text: string): Record<string, unknown> {
    try {
      const value: unknown = JSON.parse(text === '' ? '{}' : text);
      if (isJsonObject(value)) return value;
    } catch {
      // said below
    }
    throw new ShoalError('invalid_argument', `${this.#where}: param is not a JSON object: ${text}`);
  }

  text(name: string, fallback: string): string {
    const value = this.#values[name];
    return value === undefined ? fallback : textOf(value);
  }

  number(name: string, fallback: number): number {
    const value = this.#values[name];
    if (value === undefined || value === '') return fallback;
    const number = Number(value);
    if (Number.isFinite(number)) return number;
    throw new ShoalError(
      'invalid_argument',
      `${this.#where}: ${name} must be a number, got "${textOf(value)}"`,
    );
  }

  /** A list, JSON of one, or names separated by commas. */
  list(name: string): string[] {
    const value = this.#values[name];
    if (Array.isArray(value)) return value.map(String);
    if (typeof value !== 'string' || value === '') return [];
    if (value.trim().startsWith('[')) return (JSON.parse(value) as unknown[]).map(String);
    return value.split(',').map((v) => v.trim());
  }

  attribute(): string[] {
    const names = this.list('attribute');
    if (names.length > 0) return names;
    throw new ShoalError('invalid_argument', `${this.#where} needs param {"attribute": ["name"]}`);
  }

  origin(): { names: [string, string]; contains: string; column: string } {
    const [first = 'real', second = 'sim'] = this.list('attribute');
    return {
      names: [first, second],
      contains: this.text('city', ''),
      column: this.text('column', 'origin'),
    };
  }
}

type Makers<T> = Readonly<Record<string, (p: Parameters) => T>>;

const clusters = (p: Parameters): TaskDefinition =>
  definitionByCluster({ clusters: p.number('n_class', 2), fixed: true });

/** Every component there is, by slot and name; the first of a slot is its default. */
const MAKERS: { readonly [K in keyof LifelongComponents]: Makers<LifelongComponents[K]> } = {
  taskDefinition: {
    TaskDefinitionByDataAttr: (p) => definitionByAttribute(p.attribute()),
    TaskDefinitionByOrigin: (p) => definitionByOrigin(p.origin()),
    TaskDefinitionBySVC: clusters,
    TaskDefinitionByCluster: (p) => definitionByCluster({ clusters: p.number('max_class', 8) }),
    TaskDefinitionByDrift: (p) =>
      definitionByDrift({
        delta: p.number('delta', 0.2),
        lambda: p.number('lambda', 25),
        warmUp: p.number('warm_up', 30),
      }),
  },
  taskRelationDiscovery: {
    DefaultTaskRelationDiscover: () => separateTasks,
    TaskRelationBySimilarity: (p) => similarTasks({ threshold: p.number('threshold', 0.9) }),
    TaskRelationByTransfer: (p) =>
      transferMatrix({
        tolerance: p.number('tolerance', 0.02),
        maxTasks: p.number('max_tasks', 30),
      }),
  },
  taskAllocation: {
    TaskAllocationByCentroid: () => nearestCentroid,
    TaskAllocationByDataAttr: (p) => allocationByAttribute(p.attribute()),
    TaskAllocationByOrigin: (p) => allocationByOrigin(p.origin()),
    TaskAllocationByDetector: () => leastStrange,
    TaskAllocationByClassifier: () => taskClassifier,
    TaskAllocationBySVC: () => taskClassifier,
    TaskAllocationDefault: () => firstTask,
    TaskAllocationStream: () => firstTask,
    TaskMiningByDataAttr: (p) => allocationByAttribute(p.attribute()),
    TaskMiningBySVC: () => taskClassifier,
  },
  taskRemodeling: {
    DefaultTaskRemodeling: () => tunedCopies,
    TaskRemodelingSingle: () => singleModels,
    TaskRemodelingBySharedBackbone: () => sharedBackbone,
  },
  inferenceIntegrate: {
    DefaultInferenceIntegrate: () => weightedMean,
    InferenceIntegrateByVote: () => weightedVote,
  },
  taskUpdateDecision: {
    UpdateStrategyDefault: (p) => enoughSamples({ minimum: p.number('min_train_sample', 10) }),
    UpdateStrategyByFinetune: (p) => enoughSamples({ minimum: p.number('min_train_sample', 10) }),
  },
  unseenTaskAllocation: {
    UnseenTaskAllocationFallback: () => fallbackAnswers,
    UnseenTaskAllocationDefault: () => nearestAnswers,
    UnseenTaskAllocationEnsemble: (p) => ensembleAnswers({ count: p.number('count', 3) }),
  },
  unseenSampleRecognition: {
    SampleRegonitionDefault: () => conformal(neighbourScore()),
    SampleReRegonitionDefault: () => conformal(neighbourScore()),
    SampleRecognitionByNeighbours: (p) => conformal(neighbourScore(p.number('k', 3))),
    SampleRecognitionByMahalanobis: () => conformal(mahalanobisScore),
    SampleRecognitionByEnergy: (p) => conformal(energyScore(p.number('temperature', 1))),
    ModelProbeFilter: () => conformal(probabilityScore),
    TaskAttrFilter: () => everySampleSeen,
  },
  unseenTaskDetection: {
    UnseenTaskDetectionByFisher: (p) =>
      windowDetection({ window: p.number('window', 20), alpha: p.number('alpha', 0.01) }),
    UnseenTaskDetectionBySimes: (p) =>
      windowDetection({
        window: p.number('window', 20),
        alpha: p.number('alpha', 0.01),
        combination: 'simes',
      }),
  },
};

/** Names of the components of each slot, its default first. */
export const COMPONENT_NAMES: { readonly [K in keyof LifelongComponents]: readonly string[] } = {
  taskDefinition: Object.keys(MAKERS.taskDefinition),
  taskRelationDiscovery: Object.keys(MAKERS.taskRelationDiscovery),
  taskAllocation: Object.keys(MAKERS.taskAllocation),
  taskRemodeling: Object.keys(MAKERS.taskRemodeling),
  inferenceIntegrate: Object.keys(MAKERS.inferenceIntegrate),
  taskUpdateDecision: Object.keys(MAKERS.taskUpdateDecision),
  unseenTaskAllocation: Object.keys(MAKERS.unseenTaskAllocation),
  unseenSampleRecognition: Object.keys(MAKERS.unseenSampleRecognition),
  unseenTaskDetection: Object.keys(MAKERS.unseenTaskDetection),
};

/** A component from a file: its default export, called with the parameters. */
async function fromFile<T>(slot: string, choice: ComponentChoice): Promise<T> {
  const path = resolve(choice.method);
  let module: unknown;
  try {
    module = await import(pathToFileURL(path).href);
  } catch (error) {
    throw new ShoalError('invalid_argument', `${slot}: loading ${path}: ${messageOf(error)}`, {
      cause: error,
    });
  }
  const make = (module as { default?: unknown }).default;
  if (typeof make !== 'function')
    throw new ShoalError(
      'invalid_argument',
      `${slot}: ${path} must export a function of its parameters as default`,
    );
  const { param = {} } = choice;
  return make(typeof param === 'string' ? JSON.parse(param || '{}') : param) as T;
}

async function one<K extends keyof LifelongComponents>(
  slot: K,
  choice: ComponentChoice,
): Promise<LifelongComponents[K]> {
  if (/\.[cm]?[jt]s$/.test(choice.method)) return await fromFile(slot, choice);
  const make = Object.hasOwn(MAKERS[slot], choice.method) ? MAKERS[slot][choice.method] : undefined;
  if (make) return make(new Parameters(choice, slot));
  throw new ShoalError(
    'invalid_argument',
    `${slot}: there is no "${choice.method}"; choose one of ${COMPONENT_NAMES[slot].join(', ')}, or the path of a .ts or .js file`,
  );
}

/**
 * Makes the components of all slots. A user's own is one file: `{ method: './my-allocation.ts' }`,
 * whose default export is a function of the parameters that returns the slot's object.
 *
 * @throws ShoalError `invalid_argument` for a name that does not exist, naming those that do.
 */
export async function resolveComponents(
  choices: ComponentChoices = {},
): Promise<LifelongComponents> {
  const unknown = Object.keys(choices).find((slot) => !Object.hasOwn(MAKERS, slot));
  if (unknown !== undefined)
    throw new ShoalError(
      'invalid_argument',
      `there is no slot "${unknown}"; slots are ${Object.keys(MAKERS).join(', ')}`,
    );
  const of = async <K extends keyof LifelongComponents>(slot: K): Promise<LifelongComponents[K]> =>
    await one(slot, choices[slot] ?? { method: COMPONENT_NAMES[slot][0] ?? '' });
  const [taskAllocation, unseenSampleRecognition] = [
    await of('taskAllocation'),
    await of('unseenSampleRecognition'),
  ];
  if (taskAllocation.needsDetectors && unseenSampleRecognition.needsLogits)
    throw new ShoalError(
      'invalid_argument',
      'this taskAllocation asks every task’s detector, so unseenSampleRecognition must work on features: SampleRecognitionByMahalanobis or SampleRecognitionByNeighbours',
    );
  return {
    taskDefinition: await of('taskDefinition'),
    taskRelationDiscovery: await of('taskRelationDiscovery'),
    taskAllocation,
    taskRemodeling: await of('taskRemodeling'),
    inferenceIntegrate: await of('inferenceIntegrate'),
    taskUpdateDecision: await of('taskUpdateDecision'),
    unseenTaskAllocation: await of('unseenTaskAllocation'),
    unseenSampleRecognition,
    unseenTaskDetection: await of('unseenTaskDetection'),
  };
}
