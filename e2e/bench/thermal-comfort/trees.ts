import { seededRandom } from '@shoal/core';
import type { ComfortRows } from '@shoal/datasets';
import {
  type BoostedTrees,
  type BoostingOptions,
  blend,
  blendWeights,
  boostTrees,
  type LabelledRows,
  marginsOf,
} from '@shoal/lib';
import { accuracyOf, byCity, CLASSES, dealGroups, macroF1, type Split, splitRows } from './data.ts';
import type { Scores } from './sequence.ts';

const GLOBAL: BoostingOptions = { rounds: 300, depth: 6, learningRate: 0.06 };
const PER_CITY: BoostingOptions = { rounds: 60, depth: 3, learningRate: 0.06, lambda: 5 };
/** Global model of the cities left out one at a time. */
const SMALLER: BoostingOptions = { rounds: 150, depth: 6, learningRate: 0.1 };
const FOLDS = 3;
/** Fewer training rows: the city is left to the global model. */
const LEAST_ROWS = 100;
/** Rows of evidence it takes to leave the mixture that is best for all cities together. */
const PRIOR_ROWS = 300;

/** Rows as trees want them, with one column more per city and season when asked for. */
export function treeRows(
  rows: ComfortRows,
  positions: readonly number[],
  places?: readonly string[],
): LabelledRows {
  const known = rows.names.length;
  const width = known + (places?.length ?? 0);
  const inputs = new Float32Array(positions.length * width);
  for (const [at, i] of positions.entries()) {
    inputs.set(rows.inputs.subarray(i * known, (i + 1) * known), at * width);
    const place = places?.indexOf(rows.cities[i] ?? '') ?? -1;
    if (place >= 0) inputs[at * width + known + place] = 1;
  }
  const labels = positions.map((i) => Number(rows.labels[i]));
  return { inputs, width, labels, size: positions.length, classes: CLASSES };
}

export function softmaxOf(margins: Float64Array): Float64Array {
  const p = new Float64Array(margins.length);
  for (let at = 0; at < margins.length; at += CLASSES) {
    const row = margins.subarray(at, at + CLASSES);
    const top = Math.max(...row);
    const powers = row.map((z) => Math.exp(z - top));
    const sum = powers.reduce((a, b) => a + b, 0);
    p.set(
      powers.map((v) => v / sum),
      at,
    );
  }
  return p;
}

function plus(a: Float64Array, b: Float64Array): Float64Array {
  return a.map((v, i) => v + (b[i] ?? 0));
}

/** What the knowledge base keeps of all cities: one model, one that knows places, corrections per city. */
interface Knowledge {
  readonly places: readonly string[];
  readonly global: BoostedTrees;
  readonly placed: BoostedTrees;
  readonly corrections: ReadonlyMap<string, BoostedTrees>;
}

/** Corrections of a city are grown on margins of models that did not see the corrected rows. */
function learn(
  rows: ComfortRows,
  train: readonly number[],
  places: readonly string[],
  unseenMargins: ReadonlyMap<number, Float64Array> | undefined,
): Knowledge {
  const global = boostTrees(treeRows(rows, train), GLOBAL);
  const placed = boostTrees(treeRows(rows, train, places), GLOBAL);
  const corrections = new Map<string, BoostedTrees>();
  for (const [city, positions] of byCity(rows, train)) {
    if (positions.length < LEAST_ROWS) continue;
    const data = treeRows(rows, positions);
    const start = unseenMargins
      ? Float64Array.from(positions.flatMap((i) => [...(unseenMargins.get(i) ?? [0, 0, 0])]))
      : marginsOf(global, data.inputs, data.size);
    corrections.set(city, boostTrees(data, PER_CITY, start));
  }
  return { places, global, placed, corrections };
}

/** Probabilities of each member of the knowledge base for some rows of one city. */
function members(
  rows: ComfortRows,
  positions: readonly number[],
  city: string,
  knowledge: Knowledge,
): Float64Array[] {
  const plain = treeRows(rows, positions);
  const placed = treeRows(rows, positions, knowledge.places);
  const margins = marginsOf(knowledge.global, plain.inputs, plain.size);
  const correction = knowledge.corrections.get(city);
  const corrected = correction
    ? plus(margins, marginsOf(correction, plain.inputs, plain.size))
    : margins;
  return [
    softmaxOf(margins),
    softmaxOf(marginsOf(knowledge.placed, placed.inputs, placed.size)),
    softmaxOf(corrected),
  ];
}

interface Evidence {
  readonly probabilities: Float64Array[];
  readonly labels: number[];
}

/** Out-of-fold probabilities of all members, by city: folds part whole groups, as the test split does. */
function outOfFold(
  rows: ComfortRows,
  { train }: Split,
  places: readonly string[],
  seed: number,
): { evidence: Map<string, Evidence>; margins: Map<number, Float64Array> } {
  const random = seededRandom(seed).fork('folds');
  const shares = Array.from({ length: FOLDS }, () => 1 / FOLDS);
  const folds: number[][] = shares.map(() => []);
  for (const positions of byCity(rows, train).values())
    for (const [f, part] of dealGroups(rows, positions, shares, random).entries())
      folds[f]?.push(...part);
  const margins = new Map<number, Float64Array>();
  const evidence = new Map<string, Evidence>();
  for (const held of folds) {
    const rest = folds.filter((f) => f !== held).flat();
    const knowledge = learn(rows, rest, places, undefined);
    const data = treeRows(rows, held);
    const z = marginsOf(knowledge.global, data.inputs, data.size);
    for (const [at, i] of held.entries()) margins.set(i, z.slice(at * CLASSES, (at + 1) * CLASSES));
    for (const [city, positions] of byCity(rows, held))
      addEvidence(evidence, city, {
        probabilities: members(rows, positions, city, knowledge),
        labels: positions.map((i) => Number(rows.labels[i])),
      });
  }
  return { evidence, margins };
}

function addEvidence(into: Map<string, Evidence>, city: string, more: Evidence): void {
  const known = into.get(city);
  const probabilities = more.probabilities.map((p, m) =>
    Float64Array.from([...(known?.probabilities[m] ?? []), ...p]),
  );
  into.set(city, { probabilities, labels: [...(known?.labels ?? []), ...more.labels] });
}

function together(evidence: Iterable<Evidence>): Evidence {
  const all = [...evidence];
  const models = all[0]?.probabilities.length ?? 0;
  return {
    probabilities: Array.from({ length: models }, (_, m) =>
      Float64Array.from(all.flatMap((e) => [...(e.probabilities[m] ?? [])])),
    ),
    labels: all.flatMap((e) => e.labels),
  };
}

/** All cities at once: one model, one that is told city and season, and the knowledge base. */
export function allCities(rows: ComfortRows, seed: number): Record<string, Scores> {
  const split = splitRows(rows, seed);
  const places = [...new Set(split.train.map((i) => rows.cities[i] ?? ''))];
  const { evidence, margins } = outOfFold(rows, split, places, seed);
  const pooled = together(evidence.values());
  const prior = blendWeights(pooled.probabilities, pooled.labels);
  const knowledge = learn(rows, split.train, places, margins);
  const outputs: Record<string, number[]> = {
    'one model': [],
    'one model told the city': [],
    'knowledge base': [],
    'majority of the city': [],
  };
  const labels: number[] = [];
  const train = byCity(rows, split.train);
  for (const [city, positions] of byCity(rows, split.test)) {
    const parts = members(rows, positions, city, knowledge);
    const known = evidence.get(city);
    const weights = known
      ? blendWeights(known.probabilities, known.labels, { prior, priorRows: PRIOR_ROWS })
      : prior;
    outputs['one model']?.push(...(parts[0] ?? []));
    outputs['one model told the city']?.push(...(parts[1] ?? []));
    outputs['knowledge base']?.push(...blend(parts, weights));
    outputs['majority of the city']?.push(
      ...positions.flatMap(() => shares(rows, train.get(city) ?? [])),
    );
    labels.push(...positions.map((i) => Number(rows.labels[i])));
  }
  return Object.fromEntries(
    Object.entries(outputs).map(([name, p]) => [
      name,
      { accuracy: accuracyOf(p, labels), macroF1: macroF1(p, labels) },
    ]),
  );
}

function shares(rows: ComfortRows, positions: readonly number[]): number[] {
  return [0, 1, 2].map(
    (k) => positions.filter((i) => Number(rows.labels[i]) === k).length / positions.length,
  );
}

/** Whole groups of a city, at random, until there are so many labels. */
function firstLabels(
  rows: ComfortRows,
  positions: readonly number[],
  at: { count: number; seed: number },
): number[] {
  const random = seededRandom(at.seed).fork('labels');
  const share = Math.min(1, at.count / positions.length);
  return dealGroups(rows, positions, [share, 1 - share], random)[0] ?? [];
}

/** Logits moved by one offset per class, fitted to few labels with an L2 pull to nothing. */
function biasHead(margins: Float64Array, labels: readonly number[]): number[] {
  const offsets = [0, 0, 0];
  for (let step = 0; step < 300; step++) {
    const moved = margins.map((z, i) => z + (offsets[i % CLASSES] ?? 0));
    const p = softmaxOf(moved);
    for (let k = 0; k < CLASSES; k++) {
      let slope = 5 * (offsets[k] ?? 0);
      for (const [i, y] of labels.entries()) slope += (p[i * CLASSES + k] ?? 0) - (y === k ? 1 : 0);
      offsets[k] = (offsets[k] ?? 0) - (0.5 * slope) / (labels.length + 5);
    }
  }
  return offsets;
}

interface Adaptation {
  readonly offsets: readonly number[];
  readonly correction: BoostedTrees;
}

function adapt(global: BoostedTrees, data: LabelledRows): Adaptation {
  const margins = marginsOf(global, data.inputs, data.size);
  const labels = Array.from(data.labels, Number);
  const offsets = biasHead(margins, labels);
  const start = margins.map((z, i) => z + (offsets[i % CLASSES] ?? 0));
  return { offsets, correction: boostTrees(data, PER_CITY, start) };
}

function adapted(global: BoostedTrees, data: LabelledRows, how: Adaptation): Float64Array[] {
  const margins = marginsOf(global, data.inputs, data.size);
  const moved = margins.map((z, i) => z + (how.offsets[i % CLASSES] ?? 0));
  const corrected = plus(moved, marginsOf(how.correction, data.inputs, data.size));
  return [softmaxOf(margins), softmaxOf(moved), softmaxOf(corrected)];
}

/** A city nobody has seen, with so many labels: the frozen model, one retrained, the knowledge base. */
export function newCity(
  rows: ComfortRows,
  city: string,
  at: { seed: number; labels: number },
): Record<string, number> {
  const split = splitRows(rows, at.seed);
  const elsewhere = split.train.filter((i) => rows.cities[i] !== city);
  const global = boostTrees(treeRows(rows, elsewhere), SMALLER);
  const own = split.train.filter((i) => rows.cities[i] === city);
  const labelled = firstLabels(rows, own, { count: at.labels, seed: at.seed });
  const held = split.test.filter((i) => rows.cities[i] === city);
  const test = treeRows(rows, held);
  const data = treeRows(rows, labelled);
  const retrained = boostTrees(treeRows(rows, [...elsewhere, ...labelled]), SMALLER);
  // Weights from folds of the labels themselves: nothing is mixed that was not measured.
  const random = seededRandom(at.seed).fork('label folds');
  const thirds = dealGroups(rows, labelled, [1 / 3, 1 / 3, 1 / 3], random);
  const evidence = thirds
    .filter((third) => third.length > 0 && third.length < labelled.length)
    .map((third): Evidence => {
      const rest = treeRows(
        rows,
        labelled.filter((i) => !third.includes(i)),
      );
      const part = treeRows(rows, third);
      return {
        probabilities: adapted(global, part, adapt(global, rest)),
        labels: Array.from(part.labels, Number),
      };
    });
  const { probabilities, labels } = together(evidence);
  const weights =
    evidence.length === 0
      ? [1, 0, 0]
      : blendWeights(probabilities, labels, { prior: [0.2, 0.4, 0.4], priorRows: 60 });
  const parts = adapted(global, test, adapt(global, data));
  return {
    frozen: accuracyOf(parts[0] ?? [], test.labels as number[]),
    retrained: accuracyOf(
      softmaxOf(marginsOf(retrained, test.inputs, test.size)),
      test.labels as number[],
    ),
    'knowledge base': accuracyOf(blend(parts, weights), test.labels as number[]),
    majority: accuracyOf(
      held.flatMap(() => shares(rows, labelled)),
      test.labels as number[],
    ),
  };
}
