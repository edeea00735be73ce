import { isJsonObject, ShoalError } from '@shoal/core';

/** Asks the big model for its opinion of one sample. */
export interface CloudModel {
  /** @throws ShoalError `unavailable` or `deadline_exceeded` when there is no answer in time. */
  infer(sample: Float32Array): Promise<readonly number[]>;
}

export interface CloudClientOptions {
  /** Base URL of the worker in the cloud, `http://host:5000`. */
  readonly url: string;
  /** Path prefix: the job's name on both sides. */
  readonly serviceName: string;
  /** Longest wait for an answer in milliseconds. Default 2000. */
  readonly deadlineMs?: number;
}

/** Speaks Sedna's JSON endpoint: `POST /<name>/predict {"data": [sample]}` → `{"result": [row]}`. */
export function createCloudClient(options: CloudClientOptions): CloudModel {
  const { deadlineMs = 2_000 } = options;
  const url = `${options.url}/${encodeURIComponent(options.serviceName)}/predict`;
  return {
    infer: async (sample) => {
      const response = await fetch(url, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ data: [Array.from(sample)] }),
        signal: AbortSignal.timeout(deadlineMs),
      }).catch((error: unknown) => {
        const late = error instanceof Error && error.name === 'TimeoutError';
        throw new ShoalError(
          late ? 'deadline_exceeded' : 'unavailable',
          `the cloud model at ${url} gives no answer`,
          { cause: error },
        );
      });
      if (!response.ok)
        throw new ShoalError(
          'unavailable',
          `the cloud model at ${url} answers HTTP ${response.status}`,
        );
      return readRow(await response.json(), url);
    },
  };
}

function readRow(body: unknown, url: string): readonly number[] {
  const rows = isJsonObject(body) ? body['result'] : undefined;
  const row: unknown = Array.isArray(rows) ? rows[0] : undefined;
  if (
    !Array.isArray(row) ||
    row.length === 0 ||
    !row.every((v) => typeof v === 'number' && Number.isFinite(v))
  ) {
    throw new ShoalError(
      'data_corrupt',
      `the cloud model at ${url} answered without a row of numbers in "result"`,
    );
  }
  return row as number[];
}
