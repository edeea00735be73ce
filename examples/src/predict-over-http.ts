import type { Samples } from '@shoal/lib';

export interface PredictOptions {
  /** URL of an inference service. */
  readonly url: string;
  /** Samples in one request. */
  readonly batch: number;
  readonly signal: AbortSignal;
  readonly onProgress?: (share: number) => void;
}

/** Sends samples to a running inference service, some at a time, and collects its answers in order. */
export async function predictOverHttp<T>(samples: Samples, options: PredictOptions): Promise<T[]> {
  const length = samples.inputs.length / samples.size;
  const answers: T[] = [];
  for (let from = 0; from < samples.size; from += options.batch) {
    const to = Math.min(samples.size, from + options.batch);
    const data = Array.from({ length: to - from }, (_, i) =>
      Array.from(samples.inputs.subarray((from + i) * length, (from + i + 1) * length)),
    );
    const response = await fetch(`${options.url}`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ data }),
      signal: AbortSignal.any([options.signal, AbortSignal.timeout(60_000)]),
    });
    if (!response.ok)
      throw new Error(
        `${options.url} answers HTTP ${response.status}: ${(await response.text()).slice(0, 300)}`,
      );
    answers.push(...((await response.json()) as { result: T[] }).result);
    options.onProgress?.(to / samples.size);
  }
  return answers;
}

/** Share of labels that are right. */
export function accuracyOf(labels: readonly number[], truth: BigInt64Array): number {
  return labels.filter((l, i) => BigInt(l) === truth[i]).length / labels.length;
}
