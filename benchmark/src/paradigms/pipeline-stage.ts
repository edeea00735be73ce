import type { ModelStage } from '@shoal/training';
import * as ort from 'onnxruntime-node';

/** Values of a graph by name. */
export type Values = ReadonlyMap<string, ort.Tensor>;

type StageFile = Pick<ModelStage, 'model' | 'inputs' | 'outputs'>;

/** A stage of a model that was cut, ready to answer. */
export class PipelineStage {
  readonly #session: ort.InferenceSession;
  readonly #stage: StageFile;

  private constructor(session: ort.InferenceSession, stage: StageFile) {
    this.#session = session;
    this.#stage = stage;
  }

  static async open(stage: StageFile): Promise<PipelineStage> {
    const session = await ort.InferenceSession.create(stage.model, {
      intraOpNumThreads: 1,
      interOpNumThreads: 1,
      logSeverityLevel: 3,
    });
    return new PipelineStage(session, stage);
  }

  /** @returns The values it was given and those it made. */
  async run(values: Values): Promise<Values> {
    const feeds = Object.fromEntries(
      this.#stage.inputs.flatMap((name) => {
        const value = values.get(name);
        return value ? [[name, value] as const] : [];
      }),
    );
    const results = await this.#session.run(feeds);
    return new Map([...values, ...Object.entries(results)]);
  }

  async close(): Promise<void> {
    await this.#session.release();
  }
}

/** Values that stages behind the first so many still need. */
export function onward(
  stages: readonly Pick<ModelStage, 'inputs' | 'outputs'>[],
  done: number,
): string[] {
  const later = stages.slice(done);
  const made = new Set(later.flatMap((s) => s.outputs));
  const needed = later.flatMap((s) => s.inputs).filter((name) => !made.has(name));
  return [...new Set(needed)];
}
