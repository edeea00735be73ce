import { type JsonObject, type Logger, messageOf, ShoalError, silentLogger } from '@shoal/core';
import { argMax } from '../estimator/classification-metrics.ts';
import type { Estimator } from '../estimator/estimator.ts';
import type { CloudSample, SampleClient, SampleVerdict } from './sample-client.ts';

export interface LabellerOptions {
  readonly client: Pick<SampleClient, 'list' | 'label'>;
  readonly job: string;
  /** Shown as who labelled. */
  readonly name: string;
  readonly estimator: Pick<Estimator, 'predict'>;
  /** The model's input for a line of the dataset. @throws for a line it cannot read. */
  readonly parse: (data: JsonObject) => Float32Array;
  /** Least probability of the likeliest class, in [0, 1]. */
  readonly minConfidence: number;
  /** Samples of one pass. Default 256. */
  readonly batch?: number;
  readonly logger?: Logger;
}

export interface LabellingPass {
  readonly seen: number;
  readonly labelled: number;
  /** Guesses below the confidence, left to people. */
  readonly suggested: number;
  readonly rejected: number;
}

/** Readable samples in one matrix, and verdicts on the others. */
function readable(
  samples: readonly CloudSample[],
  parse: LabellerOptions['parse'],
): { usable: { sample: CloudSample; input: Float32Array }[]; refused: SampleVerdict[] } {
  const usable: { sample: CloudSample; input: Float32Array }[] = [];
  const refused: SampleVerdict[] = [];
  for (const sample of samples) {
    try {
      if (!sample.example) throw new ShoalError('data_corrupt', 'it has no data');
      usable.push({ sample, input: parse(sample.example.data) });
    } catch (error) {
      refused.push({ id: sample.id, reject: `cannot be read: ${messageOf(error)}` });
    }
  }
  return { usable, refused };
}

/** Whether the model that served a sample had as many classes; one that does not say might. */
function fits(sample: CloudSample, classes: number): boolean {
  const served = sample.example?.probabilities?.length;
  return served === undefined || served === classes;
}

/** @throws ShoalError when none of the samples fits: it is the model that is wrong. */
function expectSomeFit(samples: readonly CloudSample[], classes: number): void {
  if (samples.some((s) => fits(s, classes))) return;
  const served = samples[0]?.example?.probabilities?.length;
  throw new ShoalError(
    'failed_precondition',
    `the label model has ${classes} classes, the served model ${served}: their labels do not mean the same`,
  );
}

/**
 * Labels what waits, once: the likeliest class where its probability reaches the confidence, a
 * suggestion for people otherwise.
 *
 * @throws ShoalError `failed_precondition` when the two models have different numbers of classes.
 */
export async function labelWithModel(options: LabellerOptions): Promise<LabellingPass> {
  const { client, job, name, estimator, minConfidence, logger = silentLogger } = options;
  const samples = await client.list(job, { state: 'new', limit: options.batch ?? 256 });
  if (samples.length === 0) return { seen: 0, labelled: 0, suggested: 0, rejected: 0 };
  const { usable, refused } = readable(samples, options.parse);
  const verdicts: SampleVerdict[] = [...refused];
  const length = usable[0]?.input.length ?? 0;
  const inputs = new Float32Array(usable.length * length);
  for (const [i, { input }] of usable.entries()) inputs.set(input, i * length);
  let labelled = 0;
  if (usable.length > 0) {
    const { probabilities, classes } = await estimator.predict(inputs, usable.length);
    expectSomeFit(
      usable.map((u) => u.sample),
      classes,
    );
    for (const [i, { sample }] of usable.entries()) {
      const best = argMax(probabilities, i * classes, classes);
      const confidence = probabilities[i * classes + best] ?? 0;
      // A sample of a model with other classes is left to people.
      const sure = confidence >= minConfidence && fits(sample, classes);
      labelled += Number(sure);
      const { id } = sample;
      verdicts.push(sure ? { id, label: best, confidence } : { id, suggestion: best, confidence });
    }
  }
  await client.label(job, verdicts, { name, automatic: true });
  const pass = {
    seen: samples.length,
    labelled,
    suggested: usable.length - labelled,
    rejected: refused.length,
  };
  logger.info('labelled', { ...pass });
  return pass;
}
