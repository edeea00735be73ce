import type { TestResults } from '../paradigms/observations.ts';

/** Share of samples whose class was said. */
export function accuracyOf({ labels, predicted }: TestResults): number | undefined {
  if (labels.length === 0) return undefined;
  let hits = 0;
  for (let i = 0; i < labels.length; i++) if (labels[i] === predicted[i]) hits++;
  return hits / labels.length;
}

interface Counts {
  readonly hits: number;
  readonly said: number;
  readonly there: number;
}

function countsByClass({ labels, predicted }: TestResults): Counts[] {
  const found = new Map<number, { hits: number; said: number; there: number }>();
  const of = (k: number): { hits: number; said: number; there: number } => {
    const counts = found.get(k) ?? { hits: 0, said: 0, there: 0 };
    found.set(k, counts);
    return counts;
  };
  for (let i = 0; i < labels.length; i++) {
    const [label, said] = [labels[i] ?? -1, predicted[i] ?? -1];
    of(label).there++;
    of(said).said++;
    if (label === said) of(label).hits++;
  }
  return [...found.values()];
}

/** F1 averaged over the classes that occur in labels or answers. */
export function macroF1(results: TestResults): number | undefined {
  const counts = countsByClass(results);
  if (counts.length === 0) return undefined;
  const scores = counts.map(({ hits, said, there }) => (2 * hits) / (said + there));
  return scores.reduce((a, b) => a + b, 0) / scores.length;
}

/** F1 of all decisions together; for one label a sample it is the accuracy. */
export function microF1(results: TestResults): number | undefined {
  const counts = countsByClass(results);
  if (counts.length === 0) return undefined;
  const total = (pick: (c: Counts) => number): number => counts.reduce((n, c) => n + pick(c), 0);
  return (2 * total((c) => c.hits)) / (total((c) => c.said) + total((c) => c.there));
}

/** Chance that a member of the class scores above a stranger (Mann–Whitney U), ties half. */
function aucOfClass(scores: Float32Array, classes: number, k: number, labels: Int32Array): number {
  const order = Array.from(labels, (_, i) => i).toSorted(
    (a, b) => (scores[a * classes + k] ?? 0) - (scores[b * classes + k] ?? 0),
  );
  let [ranks, members] = [0, 0];
  for (let at = 0; at < order.length; ) {
    const value = scores[(order[at] ?? 0) * classes + k];
    let end = at;
    while (end < order.length && scores[(order[end] ?? 0) * classes + k] === value) end++;
    const rank = (at + end + 1) / 2;
    for (; at < end; at++)
      if (labels[order[at] ?? 0] === k) {
        ranks += rank;
        members++;
      }
  }
  const strangers = labels.length - members;
  return (ranks - (members * (members + 1)) / 2) / (members * strangers);
}

/** Area under the ROC curve; for more than two classes one against the rest, averaged. */
export function areaUnderCurve({ labels, scores, classes }: TestResults): number | undefined {
  // Of a model that fell apart nothing can be said.
  if (!scores || labels.length === 0 || scores.some(Number.isNaN)) return undefined;
  const there = [...new Set(labels)].filter((k) => k >= 0 && k < classes);
  if (there.length < 2) return undefined;
  if (classes === 2) return aucOfClass(scores, 2, 1, labels);
  const areas = there.map((k) => aucOfClass(scores, classes, k, labels));
  return areas.reduce((a, b) => a + b, 0) / areas.length;
}

/** Mean of |value − target|; undefined for targets of more than one number. */
export function meanAbsoluteError(results: TestResults): number | undefined {
  const { values, targets, targetWidth = 1 } = results;
  if (!values || !targets || values.length === 0 || targetWidth !== 1) return undefined;
  return values.reduce((sum, v, i) => sum + Math.abs(v - (targets[i] ?? 0)), 0) / values.length;
}

/**
 * Harrell's C: of pairs whose order of events is known, the share in which who has the event first has
 * the higher risk; equal risks count half. Targets are `[size, 2]`: time, and 1 for an event or 0 for
 * a time at which the sample was last seen.
 */
export function concordance(results: TestResults): number | undefined {
  const { values, targets, targetWidth } = results;
  if (!values || !targets || targetWidth !== 2) return undefined;
  let [good, pairs] = [0, 0];
  for (let i = 0; i < values.length; i++) {
    if (targets[i * 2 + 1] !== 1) continue;
    for (let j = 0; j < values.length; j++) {
      const [at, other] = [targets[i * 2] ?? 0, targets[j * 2] ?? 0];
      // Who was last seen at the time of an event had it later, if at all.
      const isLater = other > at || (other === at && targets[j * 2 + 1] !== 1);
      if (!isLater) continue;
      pairs++;
      const [first, later] = [values[i] ?? 0, values[j] ?? 0];
      good += first > later ? 1 : first === later ? 0.5 : 0;
    }
  }
  return pairs === 0 ? undefined : good / pairs;
}
