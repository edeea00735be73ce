import { readFileSync } from 'node:fs';
import { fromNode, messageOf, ShoalError } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import type { Samples } from '../data/samples.ts';
import { type Box, type Detector, suppress } from './detection.ts';
import type { Estimator, Metrics, Predictions } from './estimator.ts';

export interface OnnxDetectorOptions {
  /** The ONNX file; or load one later. */
  readonly model?: Uint8Array;
  /** Boxes of a lower score are left out, in [0, 1]. Default 0.25. */
  readonly minScore?: number;
  /** Boxes of one class that overlap more are one, in (0, 1]. Default 0.5. */
  readonly maxOverlap?: number;
  /** Threads of the runtime. Default 2. */
  readonly threads?: number;
}

const MAX_BOXES = 10_000;

/**
 * A detector in an ONNX file. Its output is `[size, n, 6]` (x1, y1, x2, y2, score, class), or three
 * outputs whose names begin with boxes `[size, n, 4]`, scores `[size, n]` and labels or classes
 * `[size, n]`. It is run, not trained.
 */
export class OnnxDetector implements Estimator, Detector {
  readonly #options: OnnxDetectorOptions;
  #model: Uint8Array | undefined;
  #session: ort.InferenceSession | undefined;

  constructor(options: OnnxDetectorOptions = {}) {
    this.#options = options;
    this.#model = options.model;
  }

  async #open(): Promise<ort.InferenceSession> {
    if (!this.#model)
      throw new ShoalError('failed_precondition', 'no model: pass one or call load(path) first');
    try {
      return await ort.InferenceSession.create(this.#model, {
        intraOpNumThreads: this.#options.threads ?? 2,
        interOpNumThreads: 1,
        logSeverityLevel: 3,
      });
    } catch (error) {
      throw new ShoalError('data_corrupt', `the model does not run: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  async load(path: string): Promise<void> {
    try {
      this.#model = readFileSync(path);
    } catch (error) {
      throw fromNode(error, `reading model ${path}`);
    }
    await this.close();
    this.#session = await this.#open();
  }

  save(): Promise<void> {
    return Promise.reject(new ShoalError('unsupported', 'a detector is run, not trained'));
  }

  train(_samples: Samples): Promise<Metrics> {
    return Promise.reject(new ShoalError('unsupported', 'a detector is run, not trained'));
  }

  evaluate(_samples: Samples): Promise<Metrics> {
    return Promise.reject(new ShoalError('unsupported', 'a detector has no accuracy of classes'));
  }

  predict(): Promise<Predictions> {
    return Promise.reject(
      new ShoalError('unsupported', 'a detector finds boxes, not a class; call detect'),
    );
  }

  async detect(inputs: Float32Array, size: number): Promise<Box[][]> {
    this.#session ??= await this.#open();
    const { inputNames, inputMetadata } = this.#session;
    const declared = inputMetadata[0];
    const rest = declared?.isTensor ? declared.shape.slice(1).map(Number) : [];
    const wanted = size * rest.reduce((n, d) => n * d, 1);
    if (inputs.length !== wanted)
      throw new ShoalError(
        'invalid_argument',
        `${inputs.length} input values given; ${size} samples of shape [${rest.join(', ')}] need ${wanted}`,
      );
    const feeds = { [inputNames[0] ?? '']: new ort.Tensor('float32', inputs, [size, ...rest]) };
    const rows = rowsOf(await this.#session.run(feeds), size);
    const { minScore = 0.25, maxOverlap = 0.5 } = this.#options;
    return rows.map((boxes) => {
      const good = boxes.filter((b) => b.every(Number.isFinite) && (b[4] ?? 0) >= minScore);
      return suppress(good.slice(0, MAX_BOXES), maxOverlap);
    });
  }

  async close(): Promise<void> {
    await this.#session?.release();
    this.#session = undefined;
  }
}

function numbers(tensor: ort.Tensor): number[] {
  return Array.from(tensor.data as ArrayLike<number | bigint>, Number);
}

/** Boxes of each sample out of whatever outputs there are. */
function rowsOf(outputs: ort.InferenceSession.OnnxValueMapType, size: number): number[][][] {
  const named = (pattern: RegExp): ort.Tensor | undefined =>
    Object.entries(outputs).find(([name]) => pattern.test(name))?.[1];
  const [only] = Object.values(outputs);
  if (Object.keys(outputs).length === 1 && only && only.dims.at(-1) === 6) {
    const values = numbers(only);
    const n = values.length / size / 6;
    return Array.from({ length: size }, (_, i) =>
      Array.from({ length: n }, (_box, k) => values.slice((i * n + k) * 6, (i * n + k + 1) * 6)),
    );
  }
  const [boxes, scores, labels] = [
    named(/^boxes/i),
    named(/^scores/i),
    named(/^(labels|classes)/i),
  ];
  if (!boxes || !scores || !labels)
    throw new ShoalError(
      'unsupported',
      `the model's outputs are ${Object.keys(outputs).join(', ')}; a detector has one of [size, n, 6], or boxes, scores and labels`,
    );
  const [corners, sure, kinds] = [numbers(boxes), numbers(scores), numbers(labels)];
  const n = sure.length / size;
  return Array.from({ length: size }, (_, i) =>
    Array.from({ length: n }, (_box, k) => {
      const at = i * n + k;
      return [...corners.slice(at * 4, at * 4 + 4), sure[at] ?? 0, kinds[at] ?? 0];
    }),
  );
}
