import { ShoalError } from '@shoal/core';

/** Logits of samples whose class is known. */
export interface LabelledLogits {
  /** Row-major `[size, classes]`. */
  readonly logits: ArrayLike<number>;
  readonly classes: number;
  /** Class indices, `[size]`. */
  readonly labels: ArrayLike<number | bigint>;
}

/** Softmax of one row of logits at a temperature. */
export function softmaxAt(
  logits: ArrayLike<number>,
  temperature: number,
  from = 0,
  classes: number = logits.length,
): Float64Array {
  const row = Float64Array.from(
    { length: classes },
    (_, k) => (logits[from + k] ?? 0) / temperature,
  );
  const top = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const powers = row.map((z) => Math.exp(z - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((p) => p / sum);
}

function expectSamples({ logits, classes, labels }: LabelledLogits): void {
  if (labels.length === 0 || logits.length !== labels.length * classes || classes < 2)
    throw new ShoalError(
      'invalid_argument',
      `calibration needs samples with [size, classes] logits and at least two classes, got ${labels.length} labels and ${logits.length} logits of ${classes} classes`,
    );
}

/** Mean negative log-likelihood at a temperature. */
export function negativeLogLikelihood(data: LabelledLogits, temperature: number): number {
  expectSamples(data);
  let sum = 0;
  for (let i = 0; i < data.labels.length; i++) {
    const p = softmaxAt(data.logits, temperature, i * data.classes, data.classes);
    sum -= Math.log(Math.max(1e-300, p[Number(data.labels[i])] ?? 0));
  }
  return sum / data.labels.length;
}

const GOLDEN = (Math.sqrt(5) - 1) / 2;

/**
 * Temperature scaling (Guo et al. 2017, 1706.04599, §4.2): T* = argmin_T NLL(softmax(z/T)), by golden
 * section on ln T in [ln 0.05, ln 20]. It changes no decision, only how sure the model says it is.
 *
 * @returns T*; > 1 for a model that is too sure.
 */
export function fitTemperature(data: LabelledLogits): number {
  expectSamples(data);
  let [low, high] = [Math.log(0.05), Math.log(20)];
  const at = (x: number): number => negativeLogLikelihood(data, Math.exp(x));
  let [a, b] = [high - GOLDEN * (high - low), low + GOLDEN * (high - low)];
  let [fa, fb] = [at(a), at(b)];
  while (high - low > 1e-4) {
    if (fa < fb) {
      [high, b, fb] = [b, a, fa];
      a = high - GOLDEN * (high - low);
      fa = at(a);
    } else {
      [low, a, fa] = [a, b, fb];
      b = low + GOLDEN * (high - low);
      fb = at(b);
    }
  }
  return Math.exp((low + high) / 2);
}

/**
 * Expected calibration error (Naeini et al. 2015): Σ_b n_b/n·|accuracy_b − confidence_b| over equal
 * bins of the largest probability. 0 is perfect.
 *
 * @param bins Default 15.
 */
export function calibrationError(
  data: LabelledLogits,
  temperature: number = 1,
  bins: number = 15,
): number {
  expectSamples(data);
  const sums = Array.from({ length: bins }, () => ({ hits: 0, confidence: 0 }));
  for (let i = 0; i < data.labels.length; i++) {
    const p = softmaxAt(data.logits, temperature, i * data.classes, data.classes);
    const confidence = Math.max(...p);
    const bin = sums[Math.min(bins - 1, Math.floor(confidence * bins))];
    if (!bin) continue;
    bin.confidence += confidence;
    if (p.indexOf(confidence) === Number(data.labels[i])) bin.hits++;
  }
  return sums.reduce((s, b) => s + Math.abs(b.hits - b.confidence), 0) / data.labels.length;
}
