import { messageOf, ShoalError } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import type { ShapedPlan } from './shaped-plan.ts';
import { stepsGraph } from './steps-graph.ts';
import {
  applyGraph,
  evaluateGraph,
  gradientsGraph,
  stepGraph,
  type TrainingGraph,
} from './training-graphs.ts';

/** Where the graphs run; names are ONNX Runtime's execution providers. */
export type ExecutionProvider = 'cpu' | 'cuda' | 'webgpu';

export type GraphKind = 'step' | 'steps' | 'gradients' | 'evaluate' | 'apply';

const WRITERS: Readonly<Record<GraphKind, (shaped: ShapedPlan) => TrainingGraph>> = {
  step: stepGraph,
  steps: stepsGraph,
  gradients: gradientsGraph,
  evaluate: evaluateGraph,
  apply: applyGraph,
};

/** A graph and the runtime's session for it. */
export interface Session {
  readonly graph: TrainingGraph;
  readonly run: ort.InferenceSession;
}

/** Everything compiled for one batch size. */
interface Compiled {
  readonly shaped: ShapedPlan;
  readonly sessions: Map<GraphKind, Promise<Session>>;
}

async function releaseAll(compiled: Compiled): Promise<void> {
  const opened = await Promise.allSettled(compiled.sessions.values());
  for (const each of opened) if (each.status === 'fulfilled') await each.value.run.release();
}

export interface SessionsOptions {
  /** Batch sizes kept compiled. */
  readonly most: number;
  readonly threads: number;
  readonly providers: readonly ExecutionProvider[] | undefined;
  /** Whether the runtime keeps what it allocated from run to run: faster, and more of it. */
  readonly keepsMemory: boolean;
}

/** What is compiled of a plan: graphs and sessions by size of the batch, the one used longest ago makes room. */
export class Sessions {
  readonly #compiled = new Map<number, Promise<Compiled>>();
  readonly #most: number;
  readonly #options: ort.InferenceSession.SessionOptions;
  readonly #shape: (batch: number) => Promise<ShapedPlan>;

  /** @param shape Traces the plan for a size of the batch. */
  constructor(shape: (batch: number) => Promise<ShapedPlan>, options: SessionsOptions) {
    this.#shape = shape;
    this.#most = options.most;
    this.#options = {
      intraOpNumThreads: options.threads,
      interOpNumThreads: 1,
      enableCpuMemArena: options.keepsMemory,
      graphOptimizationLevel: 'all',
      logSeverityLevel: 3,
      ...(options.providers ? { executionProviders: options.providers } : {}),
    };
  }

  #compile(batch: number): Promise<Compiled> {
    const known = this.#compiled.get(batch);
    if (known) {
      this.#compiled.delete(batch);
      this.#compiled.set(batch, known);
      return known;
    }
    const compiled = this.#shape(batch).then((shaped) => ({ shaped, sessions: new Map() }));
    this.#compiled.set(batch, compiled);
    const [oldest] = this.#compiled.keys();
    if (this.#compiled.size > this.#most && oldest !== undefined) {
      const dropped = this.#compiled.get(oldest);
      this.#compiled.delete(oldest);
      dropped?.then(releaseAll, () => undefined);
    }
    return compiled;
  }

  async #open(kind: GraphKind, graph: TrainingGraph): Promise<Session> {
    try {
      const run = await ort.InferenceSession.create(graph.bytes, this.#options);
      return { graph: { ...graph, bytes: new Uint8Array() }, run };
    } catch (error) {
      const on = this.#options.executionProviders?.map(String).join(', ') ?? 'cpu';
      throw new ShoalError(
        'unsupported',
        `the runtime cannot run the ${kind} graph on ${on}: ${messageOf(error)}`,
        { cause: error },
      );
    }
  }

  /** The session for a graph and a size of the batch. */
  async get(kind: GraphKind, batch: number): Promise<Session & { shaped: ShapedPlan }> {
    const { shaped, sessions } = await this.#compile(batch);
    let session = sessions.get(kind);
    if (!session) {
      const graph = WRITERS[kind](shaped);
      session = this.#open(kind, graph);
      sessions.set(kind, session);
    }
    return { ...(await session), shaped };
  }

  async release(): Promise<void> {
    const compiled = [...this.#compiled.values()];
    this.#compiled.clear();
    const opened = await Promise.allSettled(compiled);
    for (const each of opened) if (each.status === 'fulfilled') await releaseAll(each.value);
  }
}
