import { readFileSync, writeFileSync } from 'node:fs';
import { extname } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { type SampleLabel, sampleToken } from '@shoal/api';
import { fromNode, isJsonObject, type JsonObject, ShoalError } from '@shoal/core';
import { type CloudSample, SampleClient, type SampleState, type SampleVerdict } from '@shoal/lib';
import { type GreyImage, renderImage } from '../terminal/picture.ts';
import { renderTable } from '../terminal/table.ts';
import { readLabelFile, writeLabelFile } from './label-file.ts';
import {
  pickJob,
  type ServiceFlags,
  type ServiceOfCluster,
  serviceAccess,
} from './service-access.ts';

export type LabelFlags = ServiceFlags & { readonly by?: string };

export const SAMPLE_SERVICE: ServiceOfCluster = {
  what: 'sample service',
  address: (state) => state.samples,
  keyFile: 'samples.key',
  token: sampleToken,
};

const SHORT = 12;
const short = (id: string): string => id.slice(7, 7 + SHORT);

function byOf(flags: LabelFlags): { name: string } {
  return { name: flags.by ?? process.env['USER'] ?? 'operator' };
}

function print(json: boolean | undefined, value: unknown, text: () => string): void {
  process.stdout.write(json ? `${JSON.stringify(value)}\n` : `${text()}\n`);
}

/** Runs a body with a client, and the whole name of a job. */
async function withJob<T>(
  flags: LabelFlags,
  name: string,
  body: (client: SampleClient, job: string) => Promise<T>,
): Promise<T> {
  const client = new SampleClient(serviceAccess(flags, SAMPLE_SERVICE));
  try {
    const jobs = (await client.jobs()).map((j) => j.job);
    return await body(client, pickJob(jobs, name, 'the sample service'));
  } finally {
    client.close();
  }
}

/** Whole ids of samples given by their beginnings. @throws ShoalError naming what fits none or several. */
async function wholeIds(
  client: SampleClient,
  job: string,
  given: readonly string[],
): Promise<string[]> {
  const whole: string[] = [];
  for (const text of given) {
    const prefix = text.startsWith('sha256:') ? text : `sha256:${text}`;
    const found = (await client.list(job, { state: 'any', prefix, limit: 5 })).map((s) => s.id);
    const [id] = found;
    if (id === undefined || found.length > 1)
      throw new ShoalError(
        id === undefined ? 'not_found' : 'invalid_argument',
        id === undefined
          ? `no sample of ${job} begins with "${text}"; see: shoal label list ${job.split('/')[1]}`
          : `"${text}" is the beginning of several samples: ${found.slice(0, 4).map(short).join(', ')}; give more of it`,
      );
    whole.push(id);
  }
  return whole;
}

/** A label as it is typed: a whole number is a class, anything else a name. */
export function parseLabel(text: string): SampleLabel {
  return /^\d+$/.test(text) ? Number(text) : text;
}

function guess(s: CloudSample): string {
  return s.suggestion === undefined ? '' : `${s.suggestion} (${(s.confidence * 100).toFixed(0)} %)`;
}

/** `shoal label list [JOB]` */
export async function labelListCommand(
  name: string | undefined,
  flags: LabelFlags & { readonly state?: SampleState; readonly limit: string },
): Promise<void> {
  if (name === undefined) {
    const client = new SampleClient(serviceAccess(flags, SAMPLE_SERVICE));
    const jobs = await client.jobs().finally(() => client.close());
    return print(flags.json, jobs, () =>
      renderTable([
        ['JOB', 'WAITING', 'LABELLED', 'IN THE DATASET', 'REJECTED'],
        ...jobs.map((j) => [
          j.job,
          ...[j.waiting, j.labelled, j.delivered, j.rejected].map(String),
        ]),
      ]),
    );
  }
  const samples = await withJob(
    flags,
    name,
    async (client, job) =>
      await client.list(job, {
        limit: Number(flags.limit),
        ...(flags.state ? { state: flags.state } : {}),
      }),
  );
  print(flags.json, samples, () =>
    samples.length === 0
      ? `nothing ${flags.state ?? 'waits for a label'}`
      : renderTable([
          ['SAMPLE', 'NODE', 'STATE', 'SERVED MODEL SAID', 'SUGGESTION', 'LABEL', 'BY', 'FOUND'],
          ...samples.map((s) => [
            short(s.id),
            s.node,
            s.state,
            said(s),
            guess(s),
            s.label === undefined ? s.reason : String(s.label),
            s.labelledBy,
            s.example?.collectedAt ?? '',
          ]),
        ]),
  );
}

function said({ example }: CloudSample): string {
  if (example?.predicted === undefined) return '';
  const { predicted, score } = example;
  return score === undefined ? String(predicted) : `${predicted} (score ${score.toFixed(2)})`;
}

/** The grey image of a sample that is one: `{image: base64 of side·side bytes}`. */
export function imageOf(data: JsonObject): GreyImage | undefined {
  const { image } = data;
  if (typeof image !== 'string') return undefined;
  const pixels = Buffer.from(image, 'base64');
  const side = Math.sqrt(pixels.length);
  return Number.isInteger(side) && side > 1 ? { width: side, height: side, pixels } : undefined;
}

/** What a sample looks like in a terminal: its picture, or its data. */
function drawn(data: JsonObject): string {
  const image = imageOf(data);
  if (!image) return JSON.stringify(data, null, 2);
  const { isTTY, columns } = process.stdout;
  return renderImage(image, columns || 80, isTTY && process.env['NO_COLOR'] === undefined);
}

function lines(s: CloudSample): string {
  return [
    `${s.id} from ${s.node}, found ${s.example?.collectedAt ?? '?'}`,
    `served model: ${said(s) || '?'}; suggestion: ${guess(s) || 'none'}; label: ${s.label ?? 'none'}${s.labelledBy ? ` (${s.labelledBy})` : ''}`,
  ].join('\n');
}

/** Writes the picture, or the data, of a sample to a file. */
async function writeSample(data: JsonObject, file: string): Promise<void> {
  const image = imageOf(data);
  try {
    if (!image || extname(file) === '.json')
      return writeFileSync(file, JSON.stringify(data, null, 2));
    const { default: sharp } = await import('sharp');
    const { width, height, pixels } = image;
    const bytes = await sharp(pixels, { raw: { width, height, channels: 1 } })
      .resize({ width: Math.max(width, 280), kernel: 'nearest' })
      .toFormat(extname(file).slice(1) === 'jpg' ? 'jpeg' : 'png')
      .toBuffer();
    writeFileSync(file, bytes);
  } catch (error) {
    throw fromNode(error, `writing ${file}`);
  }
}

/** `shoal label show JOB SAMPLE` */
export async function labelShowCommand(
  name: string,
  given: string,
  flags: LabelFlags & { readonly out?: string },
): Promise<void> {
  const [sample] = await withJob(flags, name, async (client, job) => {
    const ids = await wholeIds(client, job, [given]);
    return await client.list(job, { ids });
  });
  const data = sample?.example?.data;
  if (!sample || !data)
    throw new ShoalError('not_found', `${given} is in the dataset already; its data is there`);
  if (flags.out !== undefined) {
    await writeSample(data, flags.out);
    return print(
      flags.json,
      { id: sample.id, file: flags.out },
      () => `${lines(sample)}\n→ ${flags.out}`,
    );
  }
  print(flags.json, sample, () => `${drawn(data)}\n${lines(sample)}`);
}

/** `shoal label export JOB --out FILE` */
export async function labelExportCommand(
  name: string,
  flags: LabelFlags & { readonly out: string; readonly state?: SampleState },
): Promise<void> {
  const samples = await withJob(
    flags,
    name,
    async (client, job) => await client.list(job, flags.state ? { state: flags.state } : {}),
  );
  writeLabelFile(flags.out, samples);
  print(
    flags.json,
    { file: flags.out, samples: samples.length },
    () =>
      `${samples.length} samples → ${flags.out}\nwrite the labels into it, then: shoal label import ${name} ${flags.out}`,
  );
}

/** `shoal label import JOB FILE` */
export async function labelImportCommand(
  name: string,
  file: string,
  flags: LabelFlags,
): Promise<void> {
  const { verdicts, skipped } = readLabelFile(file);
  const changed = await withJob(
    flags,
    name,
    async (client, job) => await client.label(job, verdicts, byOf(flags)),
  );
  print(
    flags.json,
    { changed, skipped },
    () =>
      `${changed} samples labelled${skipped > 0 ? `, ${skipped} without a label left alone` : ''}`,
  );
}

/** `shoal label set JOB SAMPLE LABEL`, `shoal label reject JOB SAMPLE` */
export async function labelSetCommand(
  name: string,
  what: { readonly sample: string; readonly label?: string; readonly reject?: string },
  flags: LabelFlags,
): Promise<void> {
  const id = await withJob(flags, name, async (client, job) => {
    const [whole = ''] = await wholeIds(client, job, [what.sample]);
    const verdict: SampleVerdict =
      what.label === undefined
        ? { id: whole, reject: what.reject ?? 'not to be learned' }
        : { id: whole, label: parseLabel(what.label) };
    await client.label(job, [verdict], byOf(flags));
    return whole;
  });
  print(flags.json, { id }, () =>
    what.label === undefined ? `${short(id)} will not be learned` : `${short(id)} is ${what.label}`,
  );
}

/** `shoal label accept JOB`: what the label model suggested becomes the label. */
export async function labelAcceptCommand(
  name: string,
  flags: LabelFlags & { readonly minConfidence: string },
): Promise<void> {
  const least = Number(flags.minConfidence);
  const changed = await withJob(flags, name, async (client, job) => {
    const suggested = await client.list(job, { state: 'suggested' });
    const verdicts = suggested
      .filter((s) => s.confidence >= least)
      .map((s) => ({ id: s.id, label: s.suggestion ?? '', confidence: s.confidence }));
    return await client.label(job, verdicts, byOf(flags));
  });
  print(flags.json, { changed }, () => `${changed} suggestions accepted`);
}

/** `shoal label go JOB`: one sample after the other, a key each. */
export async function labelGoCommand(name: string, flags: LabelFlags): Promise<void> {
  await withJob(flags, name, async (client, job) => {
    const samples = await client.list(job);
    const input = createInterface({ input: process.stdin, output: process.stdout });
    let done = 0;
    for (const [i, sample] of samples.entries()) {
      const data = sample.example?.data;
      if (!isJsonObject(data)) continue;
      const offer = sample.suggestion === undefined ? '' : `, Enter for ${sample.suggestion}`;
      process.stdout.write(`${drawn(data)}\n${lines(sample)}\n`);
      const answer = (
        await input.question(
          `${i + 1} of ${samples.length}: label${offer}, s skips, r rejects, q ends › `,
        )
      ).trim();
      if (answer === 'q') break;
      const verdict = verdictFor(sample, answer);
      if (verdict) done += await client.label(job, [verdict], byOf(flags));
    }
    input.close();
    process.stdout.write(`${done} samples labelled\n`);
  });
}

function verdictFor({ id, suggestion }: CloudSample, answer: string): SampleVerdict | undefined {
  if (answer === 's' || (answer === '' && suggestion === undefined)) return undefined;
  if (answer === 'r') return { id, reject: 'rejected by hand' };
  return { id, label: answer === '' ? (suggestion ?? '') : parseLabel(answer) };
}

/** `shoal model push FILE`: a file for Models with a `blob:` URL. */
export async function modelPushCommand(file: string, flags: LabelFlags): Promise<void> {
  const client = new SampleClient(serviceAccess(flags, SAMPLE_SERVICE));
  try {
    const digest = await client.upload(readFileSync(file));
    const url = `blob:${digest}`;
    print(
      flags.json,
      { url },
      () => `${url}\nuse it as spec.url of a Model; nodes fetch it when they need it`,
    );
  } catch (error) {
    throw fromNode(error, `storing ${file}`);
  } finally {
    client.close();
  }
}
