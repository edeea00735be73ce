import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ParticipantPage } from '@shoal/browser';
import { seededRandom } from '@shoal/core';
import { generateDigits } from '@shoal/datasets';
import {
  AggregationServer,
  type FederationResult,
  grpcTransport,
  nodePlatform,
  Participant,
  readImageLines,
  type Samples,
  slice,
  TrainerModel,
  toImageLine,
} from '@shoal/lib';
import { dense, flatten, relu, sequential } from '@shoal/training';
import { type Browser, chromium, type Page } from 'playwright-core';
import { findChromium } from './chromium.ts';
import type { Outcome } from './outcome.ts';

const ROUNDS = 4;
const TOKEN = 'a secret';
const PAGE_MS = 60_000;

interface Federation {
  readonly model: Uint8Array;
  readonly shares: readonly Samples[];
  readonly folder: string;
}

function linesOf(samples: Samples): string {
  return Array.from({ length: samples.size }, (_, i) =>
    toImageLine(samples.inputs.subarray(i * 784, (i + 1) * 784), Number(samples.labels[i])),
  ).join('\n');
}

/** Participants in Node under the names that pages have in the other run. */
async function nodeParticipant(
  address: string,
  name: string,
  at: { model: Uint8Array; samples: Samples; signal: AbortSignal },
): Promise<void> {
  const model = await TrainerModel.create(at);
  const transport = grpcTransport(address);
  const options = { transport, platform: nodePlatform, job: 'pages', participant: name };
  await new Participant({ ...options, token: TOKEN }, model).run(at.signal);
  await model.close();
}

async function inPage(page: Page, url: string, name: string, file: string): Promise<string> {
  await page.goto(`${url}#token=${encodeURIComponent(TOKEN)}`);
  await page.fill('#name', name);
  await page.setInputFiles('#file', file);
  await page.click('#join');
  await page.locator('#state', { hasText: /^Done/ }).waitFor({ timeout: PAGE_MS });
  return (await page.textContent('#rounds')) ?? '';
}

/** One federation of three; the first `pages` of them in Chromium, the others in Node. */
async function federate(
  { model, shares, folder }: Federation,
  browser: Browser,
  pages: number,
): Promise<{ result: FederationResult; tables: string[]; faults: string[] }> {
  const template = await TrainerModel.create({ model, samples: shares[0] as Samples });
  const server = new AggregationServer({
    job: 'pages',
    rounds: ROUNDS,
    participants: 3,
    dir: mkdtempSync(join(folder, 'rounds-')),
    initial: template.initial(),
    layout: template.layout,
    token: TOKEN,
    learningRate: 0.1,
    localEpochs: 5,
  });
  const page = new ParticipantPage({
    job: 'pages',
    inputShape: [1, 28, 28],
    local: { proximal: 0, controlVariates: false },
    aggregation: server,
    model,
  });
  const address = await server.start();
  const url = await page.start();
  const tabs = await Promise.all(Array.from({ length: pages }, () => browser.newPage()));
  const faults: string[] = [];
  const stopping = new AbortController();
  for (const tab of tabs) tab.on('pageerror', (error) => faults.push(error.message));
  const work = shares.map(async (samples, i) => {
    const tab = tabs[i];
    if (tab) return await inPage(tab, url, `p${i}`, join(folder, `p${i}.jsonl`));
    await nodeParticipant(address, `p${i}`, { model, samples, signal: stopping.signal });
    return '';
  });
  try {
    const tables = await Promise.all(work);
    return { result: await server.done, tables: tables.slice(0, pages), faults };
  } finally {
    stopping.abort();
    for (const tab of tabs) await tab.close();
    await page.close();
    await server.close();
    await template.close();
  }
}

async function strangerIsRefused(browser: Browser): Promise<string> {
  const shares = [generateDigits({ count: 20, seed: 5 })];
  const model = smallModel();
  const template = await TrainerModel.create({ model, samples: shares[0] as Samples });
  const dir = mkdtempSync(join(tmpdir(), 'shoal-page-'));
  const server = new AggregationServer({
    job: 'pages',
    rounds: 1,
    participants: 1,
    dir,
    initial: template.initial(),
    layout: template.layout,
    token: TOKEN,
  });
  const local = { proximal: 0, controlVariates: false };
  const page = new ParticipantPage({
    job: 'pages',
    inputShape: [1, 28, 28],
    local,
    aggregation: server,
    model,
  });
  await server.start();
  const url = await page.start();
  const tab = await browser.newPage();
  try {
    const file = join(dir, 'one.jsonl');
    writeFileSync(file, linesOf(shares[0] as Samples));
    await tab.goto(`${url}#token=another`);
    await tab.setInputFiles('#file', file);
    await tab.click('#join');
    await tab.waitForSelector('#state.fault');
    return (await tab.textContent('#state')) ?? '';
  } finally {
    await tab.close();
    await page.close();
    await server.close();
    await template.close();
    rmSync(dir, { recursive: true, force: true });
  }
}

function smallModel(): Uint8Array {
  const layers = [flatten(), dense(16), relu(), dense(10)];
  return sequential({ input: [1, 28, 28], layers, random: seededRandom(3) });
}

function largestDifference(a: Float32Array, b: Float32Array): number {
  return a.reduce((worst, v, i) => Math.max(worst, Math.abs(v - (b[i] ?? 0))), 0);
}

async function session(browser: Browser): Promise<Outcome[]> {
  const folder = mkdtempSync(join(tmpdir(), 'shoal-pages-'));
  try {
    const digits = generateDigits({ count: 360, seed: 4 });
    const shares = [0, 1, 2].map((i) => {
      const path = join(folder, `p${i}.jsonl`);
      writeFileSync(path, linesOf(slice(digits, i * 120, (i + 1) * 120)));
      return readImageLines(path, [1, 28, 28]);
    });
    const federation = { model: smallModel(), shares, folder };
    const inNode = await federate(federation, browser, 0);
    const inPages = await federate(federation, browser, 2);
    const apart = largestDifference(inNode.result.model, inPages.result.model);
    const accuracy = inPages.result.history.at(-1)?.metrics['accuracy'] ?? 0;
    const rows = inPages.tables.map((t) => t.match(/%/g)?.length);
    const good = apart < 1e-4 && inPages.faults.length === 0 && rows.every((n) => n === ROUNDS + 1);
    const stranger = await strangerIsRefused(browser);
    return [
      {
        name: 'two pages in Chromium and a process in Node learn what three processes learn',
        result: good ? 'passed' : 'failed',
        detail: `largest difference ${apart.toExponential(1)}, accuracy ${(accuracy * 100).toFixed(1)} %, rounds shown ${rows.join(', ')}${inPages.faults.map((f) => `\n${f}`).join('')}`,
      },
      {
        name: 'a page without the token is refused, and says so',
        result: stranger.includes('the token is not this federation’s') ? 'passed' : 'failed',
        detail: stranger,
      },
    ];
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Pages of a real browser take part in a federation. */
export async function browserParticipants(): Promise<Outcome[]> {
  const name = 'pages in Chromium take part in a federation';
  const executablePath = findChromium();
  if (executablePath === undefined)
    return [{ name, result: 'skipped', detail: 'no Chromium is here, and none can be installed' }];
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
  try {
    return await session(browser);
  } catch (error) {
    return [{ name, result: 'failed', detail: String(error) }];
  } finally {
    await browser.close();
  }
}
