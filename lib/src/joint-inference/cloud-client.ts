import { isJsonObject, ShoalError } from '@shoal/core';
import { type Box, expectBoxes } from '../estimator/detection.ts';
import { DEADLINE_HEADER, tensorBody, tensorRows } from './tensor-body.ts';

/** Asks the big model for its opinion of one sample. */
export interface CloudModel {
  /** @throws ShoalError `unavailable` or `deadline_exceeded` when there is no answer in time. */
  infer(sample: Float32Array): Promise<readonly number[]>;
  /** The same of a detector: boxes rather than class probabilities. */
  detect?(sample: Float32Array): Promise<readonly Box[]>;
}

export interface CloudClientOptions {
  /** Base URL of the worker in the cloud, `http://host:5000`. */
  readonly url: string;
  /** Path prefix: the job's name on both sides. */
  readonly serviceName: string;
  /** Longest wait for an answer in milliseconds. Default 2000. */
  readonly deadlineMs?: number;
  /** `json` is Sedna's; `tensor` sends bytes instead of digits. Default `tensor`. */
  readonly wire?: 'json' | 'tensor';
}

/**
 * Asks `POST /<name>/predict`: with Sedna's JSON (`{"data": [sample]}` → `{"result": [row]}`), or with
 * tensors (float32 bytes with dtype and shape in the headers, both ways).
 */
export function createCloudClient(options: CloudClientOptions): CloudModel {
  const { deadlineMs = 2_000, wire = 'tensor' } = options;
  const url = `${options.url}/${encodeURIComponent(options.serviceName)}/predict`;
  const ask = async (sample: Float32Array): Promise<Response> => {
    const sent =
      wire === 'tensor'
        ? tensorBody([sample])
        : {
            body: JSON.stringify({ data: [Array.from(sample)] }),
            headers: { 'Content-Type': 'application/json' },
          };
    const response = await fetch(url, {
      method: 'POST',
      headers: { ...sent.headers, [DEADLINE_HEADER]: String(deadlineMs) },
      body: sent.body,
      signal: AbortSignal.timeout(deadlineMs),
    }).catch((error: unknown) => {
      const late = error instanceof Error && error.name === 'TimeoutError';
      throw new ShoalError(
        late ? 'deadline_exceeded' : 'unavailable',
        `the cloud model at ${url} gives no answer`,
        { cause: error },
      );
    });
    if (response.ok) return response;
    // 429 and 503 ask to come again; other 4xx say that this sample will never do.
    const never = response.status >= 400 && response.status < 500 && response.status !== 429;
    throw new ShoalError(
      never ? 'invalid_argument' : 'unavailable',
      `the cloud model at ${url} answers HTTP ${response.status}`,
    );
  };
  return {
    infer: async (sample) => {
      const response = await ask(sample);
      return wire === 'tensor'
        ? await tensorRow(response, url)
        : readRow(await json(response, url), url);
    },
    detect: async (sample) => {
      const body = await json(await ask(sample), url);
      const rows = isJsonObject(body) ? body['result'] : undefined;
      return expectBoxes(Array.isArray(rows) ? rows[0] : undefined, `the cloud model at ${url}`);
    },
  };
}

async function json(response: Response, url: string): Promise<unknown> {
  try {
    return await response.json();
  } catch (error) {
    throw new ShoalError('data_corrupt', `the cloud model at ${url} answered no JSON`, {
      cause: error,
    });
  }
}

/** The one row of a tensor answer; a server that knows only JSON is understood as well. */
async function tensorRow(response: Response, url: string): Promise<readonly number[]> {
  if ((response.headers.get('content-type') ?? '').includes('json'))
    return readRow(await json(response, url), url);
  const bytes = new Uint8Array(await response.arrayBuffer());
  let row: Float32Array | undefined;
  try {
    [row] = tensorRows(bytes, (name) => response.headers.get(name) ?? undefined);
  } catch (error) {
    throw new ShoalError('data_corrupt', `the cloud model at ${url} answered with no tensor`, {
      cause: error,
    });
  }
  if (!row?.every(Number.isFinite))
    throw new ShoalError('data_corrupt', `the cloud model at ${url} answered NaN or infinity`);
  return [...row];
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
