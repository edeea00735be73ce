import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { seededRandom } from '@shoal/core';
import {
  type ComfortCities,
  type ComfortCity,
  comfortCities,
  comfortLines,
  preparedVotes,
  preparedWidth,
} from '@shoal/datasets';
import { parseAllDocuments } from 'yaml';
import type { Example, ExampleContext, ExampleResult, ResultRow } from '../../src/example.ts';
import { followStages, type StagedStatus, untilServed } from '../../src/follow-job.ts';
import { heatMapSvg } from '../../src/heat-map.ts';
import { type StudyResult, studyRows, studyTasks } from '../../src/lifelong-study.ts';
import { COMPONENTS, comfortModel, createComfort, EPOCHS, OPTIMIZER } from './model.ts';

const SEEDS = [1, 2, 3, 4, 5];

interface Answer {
  readonly label: number;
  readonly isUnseen: boolean;
  readonly task: string;
}

/** Asks the edge's service about the held-out votes of a city. */
async function ask(
  city: ComfortCity,
  columns: readonly string[],
  context: ExampleContext,
): Promise<{ accuracy: number; unseen: number }> {
  const service = await context.get('Service', 'comfort-inference');
  const url = `http://${String((service?.spec as { clusterIP?: string } | undefined)?.clusterIP)}/predict`;
  const votes = preparedVotes(city.test, columns);
  const width = votes.inputs.length / votes.size;
  const data = Array.from({ length: votes.size }, (_, i) => [
    ...votes.inputs.subarray(i * width, (i + 1) * width),
  ]);
  const { city: names, season } = votes.attributes;
  const attributes = data.map((_, i) => ({ city: names?.[i] ?? '', season: season?.[i] ?? '' }));
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ data, attributes }),
    signal: AbortSignal.any([context.signal, AbortSignal.timeout(30_000)]),
  });
  if (!response.ok)
    throw new Error(`${url} answers HTTP ${response.status}: ${await response.text()}`);
  const { result } = (await response.json()) as { result: Answer[] };
  const hits = result.filter((a, i) => BigInt(a.label) === votes.labels[i]).length;
  const unseen = result.filter((a) => a.isUnseen).length;
  return { accuracy: hits / votes.size, unseen: unseen / votes.size };
}

interface JobStatus extends StagedStatus {
  readonly knowledgeBase?: { readonly AIModels?: { readonly numberOfAIModels?: number } };
}

/** Follows the stages until another version is deployed. */
async function deployed(context: ExampleContext, before: string | undefined): Promise<JobStatus> {
  return await followStages(context, { kind: 'LifelongLearningJob', name: 'comfort', before });
}

/** The manifest for votes of so many columns. */
function manifestFor(columns: number): object[] {
  const text = readFileSync(join(import.meta.dirname, 'manifest.yaml'), 'utf8');
  const wide = text.replaceAll(
    'name: COMFORT_COLUMNS, value: "7"',
    `name: COMFORT_COLUMNS, value: "${columns}"`,
  );
  return parseAllDocuments(wide).map((d) => d.toJS() as object);
}

/** The job on the cluster: some cities, then one nobody has seen. */
async function onTheCluster(context: ExampleContext, source: ComfortCities): Promise<ResultRow[]> {
  const { columns } = source;
  const cities = source.ofSeed(1);
  const known = cities.slice(0, -1);
  const stranger = cities.at(-1);
  if (!stranger) throw new Error('no cities');
  const file = context.nodePath('cloud-1', '/data/comfort/votes.csv');
  writeFileSync(file, `${[...columns, 'city', 'season', 'preference'].join(',')}\n`);
  await context.remove('LifelongLearningJob', 'comfort');
  context.stage('starting the job');
  await context.apply(manifestFor(columns.length));
  // Votes of all cities arrive mixed.
  const lines = known.flatMap((c) => comfortLines(c.train));
  const order = seededRandom(1).permutation(lines.length);
  appendFileSync(file, `${Array.from(order, (i) => lines[i]).join('\n')}\n`);
  context.stage(`${lines.length} votes of ${known.length} cities arrive`);
  const first = await deployed(context, undefined);
  await untilServed(context, 'comfort-inference');
  const asked = async (city: ComfortCity): ReturnType<typeof ask> =>
    await ask(city, columns, context);
  const before = await inTurn(known, asked);
  const strange = await asked(stranger);
  context.stage(`${stranger.train.size} votes of ${stranger.name} arrive`);
  const startedAt = performance.now();
  appendFileSync(file, `${comfortLines(stranger.train).join('\n')}\n`);
  const second = await deployed(context, first.deployedModel);
  const seconds = (performance.now() - startedAt) / 1000;
  const learned = await asked(stranger);
  const after = await inTurn(known, asked);
  const mean = (list: readonly { accuracy: number }[]): number =>
    list.reduce((sum, a) => sum + a.accuracy, 0) / list.length;
  const share = (measure: string, value: number, note?: string): ResultRow => ({
    measure,
    value,
    unit: 'share',
    ...(note === undefined ? {} : { note }),
  });
  const { name } = stranger;
  return [
    share(`accuracy, ${known.length} known cities`, mean(before)),
    share(`${name}, before it is learned`, strange.accuracy, 'the global model answers'),
    share(`${name}, called unseen`, strange.unseen),
    share(`${name}, once it is a task`, learned.accuracy),
    share('known cities, afterwards', mean(after)),
    {
      measure: 'votes arrived → served',
      value: seconds,
      unit: 'seconds',
      note: 'learn, evaluate, deploy, hot update',
    },
    {
      measure: 'tasks in the knowledge base',
      value: second.knowledgeBase?.AIModels?.numberOfAIModels ?? 0,
      unit: 'count',
      note: 'with the global one',
    },
  ];
}

async function inTurn<T, R>(list: readonly T[], each: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (const item of list) results.push(await each(item));
  return results;
}

/** The same sequence in several ways. */
async function study(context: ExampleContext, source: ComfortCities): Promise<StudyResult[]> {
  const width = preparedWidth(source.columns.length);
  const results: StudyResult[] = [];
  for (const [i, seed] of SEEDS.entries()) {
    context.progress(i / SEEDS.length, `seed ${seed}`);
    const tasks = source.ofSeed(seed).map(({ name, train, test }) => ({
      name,
      train: preparedVotes(train, source.columns),
      test: preparedVotes(test, source.columns),
    }));
    results.push(
      await studyTasks({
        tasks,
        model: comfortModel(width, seed),
        optimizer: OPTIMIZER,
        epochs: EPOCHS,
        components: COMPONENTS,
        create: createComfort(width),
        strategies: [{ name: 'fine-tune' }, { name: 'rehearsal', memory: 200 }],
        seed,
      }),
    );
  }
  return results;
}

async function run(context: ExampleContext): Promise<ExampleResult> {
  const source = await comfortCities(context.data);
  const rows = await onTheCluster(context, source);
  context.stage('the same cities one after another, five seeds, beside other ways');
  const results = await study(context, source);
  const names = source.ofSeed(1).map((c) => c.name);
  const matrices: Record<string, readonly (readonly number[])[]> = {};
  const files: string[] = [];
  for (const way of ['knowledge base', 'fine-tune']) {
    const matrix = results[0]?.ways[way]?.matrix ?? [];
    const file = context.nodePath(
      'cloud-1',
      `/output/comfort/figures/${way.replace(' ', '-')}.svg`,
    );
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, heatMapSvg(way, names, matrix));
    matrices[way] = matrix;
    files.push(file);
  }
  return {
    example: 'lifelong-learning/thermal-comfort',
    data: context.data,
    rows: [...rows, ...studyRows(results)],
    matrices,
    files,
  };
}

export const lifelongLearningThermalComfort: Example = {
  name: 'lifelong-learning/thermal-comfort',
  title: 'Lifelong learning: cities come, none is forgotten',
  data: ['generated', 'ashrae'],
  run,
};
