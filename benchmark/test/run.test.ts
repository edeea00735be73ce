import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, describe, expect, it } from 'vitest';
import {
  type CaseEvent,
  type JobResults,
  planJob,
  readResults,
  runJob,
  writeReports,
} from '../src/index.ts';
import type { RunOptions } from '../src/runs/run-job.ts';
import { RunStore } from '../src/runs/store.ts';
import { algorithmText, type TrivialJobOptions, trivialJob } from './trivial-job.ts';

const folders: string[] = [];
afterEach(() => {
  for (const f of folders.splice(0)) rmSync(f, { recursive: true, force: true });
});

function made(options: TrivialJobOptions = {}): { folder: string; job: string; results: string } {
  const { folder, job } = trivialJob(options);
  folders.push(folder);
  return { folder, job, results: join(folder, 'results') };
}

async function run(
  job: string,
  results: string,
  more: Pick<RunOptions, 'fresh' | 'parallel' | 'place'> = {},
): Promise<Awaited<ReturnType<typeof runJob>> & { ended: CaseEvent[] }> {
  const ended: CaseEvent[] = [];
  const summary = await runJob(await planJob(job), {
    folder: results,
    signal: new AbortController().signal,
    onCase: (e) => {
      if (e.kind === 'ended') ended.push(e);
    },
    ...more,
  });
  return { ...summary, ended };
}

function isRunning(pid: number): boolean {
  try {
    // A process that has ended but was not waited for has no command line.
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8') !== '';
  } catch {
    return false;
  }
}

/** Case processes that a process has started. */
function casesOf(parent: number | undefined): number[] {
  return execFileSync('ps', ['-eo', 'pid,ppid,args'], { encoding: 'utf8' })
    .split('\n')
    .filter((l) => l.includes('case-process/main.ts'))
    .map((l) => l.trim().split(/\s+/).map(Number))
    .filter(([, ppid]) => ppid === parent)
    .map(([pid = 0]) => pid);
}

/** results.json as written for what has run. */
function written(job: string, results: string): string {
  const found: JobResults = readResults(job, results);
  writeReports(found, results, ['json']);
  return readFileSync(join(results, 'results.json'), 'utf8');
}

const FORTY = {
  withoutFiles: true,
  seeds: [1, 2, 3, 4, 5],
  hyperparameters: { noise: '[0, 1, 2, 3, 4, 5, 6, 7]' },
};

describe('running a job', () => {
  it('goes on past a crash, a hang, an exit and a module that is not there: the others rank', async () => {
    const { job, results } = made({
      seeds: [1],
      withoutFiles: true,
      timeLimitSeconds: 2,
      hyperparameters: { noise: `[${Array.from({ length: 36 }, (_, i) => i).join(', ')}]` },
      more: {
        'crashing.yaml': algorithmText('{ fail: crash }'),
        'hanging.yaml': algorithmText('{ fail: hang }'),
        'leaving.yaml': algorithmText('{ fail: exit }'),
        'missing.yaml': algorithmText('{}', './nowhere.ts'),
      },
    });
    const { ran, failed } = await run(job, results);
    expect(ran).toBe(40);
    const reasons = Object.fromEntries(failed.map((f) => [f.name.split(' ')[0], f.error]));
    expect(reasons['crashing']).toMatch(/the classifier has fallen over/);
    expect(reasons['hanging']).toMatch(/took longer than 2 s/);
    expect(reasons['leaving']).toMatch(/ended with code 7/);
    expect(reasons['missing']).toMatch(
      /missing\.yaml: module "centroids": there is no file .*nowhere\.ts/,
    );
    const [board] = readResults(job, results).boards;
    expect(board?.rows.filter((r) => r.rank !== undefined)).toHaveLength(36);
    expect(board?.rows).toHaveLength(40);
  }, 120_000);

  it('gives the same bytes for the same seeds, times aside', async () => {
    const { job, results } = made({ hyperparameters: { noise: '[0, 3]' } });
    const again = `${results}-again`;
    folders.push(again);
    await run(job, results);
    await run(job, again, { parallel: 1 });
    expect(written(job, again)).toBe(written(job, results));
  }, 60_000);

  it('survives kill -9 in the middle: the same leaderboard, and nothing runs twice', async () => {
    const { job, results } = made(FORTY);
    const undisturbed = `${results}-undisturbed`;
    folders.push(undisturbed);
    const child = spawn(
      process.execPath,
      [join(import.meta.dirname, 'run-until-killed.ts'), job, results],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    child.stdout.on('data', (chunk: Buffer) => {
      if (Number(chunk.toString().trim().split('\n').at(-1)) >= 11) child.kill('SIGKILL');
    });
    await once(child, 'close');
    const db = new DatabaseSync(join(results, 'results.db'), { readOnly: true });
    const finished = db.prepare("SELECT id, finished_at FROM cases WHERE state = 'done'").all();
    db.close();
    expect(finished.length).toBeGreaterThanOrEqual(11);
    expect(finished.length).toBeLessThan(40);
    const half = writeReports(readResults(job, results), results, ['html', 'markdown', 'json']);
    const left = 40 - finished.length;
    const saying = half
      .filter((file) => !file.endsWith('measurements.json'))
      .map((file) => readFileSync(file, 'utf8').match(/(\d+) cases of this run|"missing": ?(\d+)/));
    expect(saying.map((m) => Number(m?.[1] ?? m?.[2]))).toEqual([left, left, left]);

    const { ran, kept } = await run(job, results);
    expect(kept).toBe(finished.length);
    expect(ran).toBe(40 - finished.length);
    const after = new DatabaseSync(join(results, 'results.db'), { readOnly: true });
    for (const { id, finished_at } of finished)
      expect(after.prepare('SELECT finished_at FROM cases WHERE id = ?').get(id ?? null)).toEqual({
        finished_at,
      });
    after.close();
    await run(job, undisturbed);
    expect(written(job, results)).toBe(written(job, undisturbed));
  }, 120_000);

  it('ends what a case started, however long that would hold its pipes', async () => {
    const { job, folder, results } = made({
      seeds: [1],
      timeLimitSeconds: 20,
      hyperparameters: { noise: '[0]' },
    });
    const source = readFileSync(join(folder, 'centroids.ts'), 'utf8');
    const helper = join(folder, 'helper.pid');
    const begin = `const child = spawn('sleep', ['30'], { stdio: 'inherit' });
      writeFileSync(${JSON.stringify(helper)}, String(child.pid));
      child.unref();
      for (const end`;
    writeFileSync(
      join(folder, 'centroids.ts'),
      `import { spawn } from 'node:child_process';\nimport { writeFileSync } from 'node:fs';\n${source.replace('for (const end', begin)}`,
    );
    const { seconds, failed } = await run(job, results);
    expect(failed).toEqual([]);
    expect(seconds).toBeLessThan(15);
    const pid = Number(readFileSync(helper, 'utf8'));
    await expect.poll(() => isRunning(pid), { timeout: 5_000 }).toBe(false);
  }, 60_000);

  it.each([
    ['waits', 'sleep'],
    ['never comes back to its loop', 'busy'],
  ])(
    'ends a case that %s, when whoever runs it is killed',
    async (_what, hyperparameter) => {
      const { job, results } = made({
        seeds: [1],
        hyperparameters: { [hyperparameter]: '[60000]' },
      });
      const child = spawn(
        process.execPath,
        [join(import.meta.dirname, 'run-until-killed.ts'), job, results],
        { stdio: 'ignore' },
      );
      await expect.poll(() => casesOf(child.pid).length, { timeout: 20_000 }).toBe(1);
      const [pid = 0] = casesOf(child.pid);
      // Long enough to be in the loop.
      await new Promise((r) => setTimeout(r, 1_500));
      child.kill('SIGKILL');
      await expect.poll(() => isRunning(pid), { timeout: 8_000 }).toBe(false);
    },
    60_000,
  );

  it('stores no result under the data of before, when the data changes while it runs', async () => {
    const { job, folder, results } = made({ seeds: [1], hyperparameters: { sleep: '[1500]' } });
    const running = run(job, results);
    await new Promise((r) => setTimeout(r, 1_200));
    const test = readFileSync(join(folder, 'test.csv'), 'utf8');
    writeFileSync(join(folder, 'test.csv'), test.replace(/.*\n$/, ''));
    const { failed } = await running;
    expect(failed[0]?.error).toMatch(/the data changed since the run was planned/);
  }, 60_000);

  it('knows what is kept by its present name', async () => {
    const { job, results } = made({ seeds: [1], hyperparameters: { noise: '[0]' } });
    await run(job, results);
    const text = readFileSync(job, 'utf8');
    writeFileSync(job, text.replace('name: swept', 'name: renamed'));
    expect((await run(job, results)).kept).toBe(1);
    expect(readResults(job, results).boards[0]?.rows[0]?.algorithm).toBe('renamed');
  }, 60_000);

  it('repeats results.json also where a measured metric decides the order', async () => {
    const { job, results } = made({ hyperparameters: { noise: '[0, 1, 2]' } });
    const text = readFileSync(job, 'utf8');
    writeFileSync(job, text.replace('sort_by: [accuracy]', 'sort_by: [wall_time]'));
    const again = `${results}-again`;
    folders.push(again);
    await run(job, results);
    await run(job, again);
    expect(written(job, again)).toBe(written(job, results));
  }, 60_000);

  it('runs again what has changed, and only that: a value, the code, the data', async () => {
    const { job, folder, results } = made({
      seeds: [1],
      hyperparameters: { noise: '[0, 1, 2]' },
      more: { 'other.yaml': algorithmText('{ noise: 9 }', './other.ts') },
    });
    const source = readFileSync(join(folder, 'centroids.ts'), 'utf8');
    writeFileSync(join(folder, 'other.ts'), source);
    expect((await run(job, results)).ran).toBe(4);
    expect(await run(job, results)).toMatchObject({ ran: 0, kept: 4 });

    const swept = readFileSync(join(folder, 'swept.yaml'), 'utf8');
    writeFileSync(join(folder, 'swept.yaml'), swept.replace('[0, 1, 2]', '[0, 1, 5]'));
    expect(await run(job, results)).toMatchObject({ ran: 1, kept: 3 });

    writeFileSync(join(folder, 'other.ts'), `${source}\n// a change\n`);
    expect(await run(job, results)).toMatchObject({ ran: 1, kept: 3 });

    const test = readFileSync(join(folder, 'test.csv'), 'utf8');
    writeFileSync(join(folder, 'test.csv'), test.replace(/.*\n$/, ''));
    expect(await run(job, results)).toMatchObject({ ran: 4, kept: 0 });
    // What is ranked is what the newest run was about.
    expect(readResults(job, results).records).toHaveLength(4);
  }, 60_000);

  it('runs again where the code behind the place is another', async () => {
    const { job, results } = made({ seeds: [1] });
    await run(job, results);
    const [planned] = (await planJob(job)).cases;
    const store = RunStore.open(results);
    const outcome = store.get(planned?.id ?? '', 'process')?.outcome;
    store.close();
    if (!outcome) throw new Error('it has not run');
    const at = (code: string): Pick<RunOptions, 'place'> => ({
      place: {
        name: 'cluster',
        code,
        run: () => Promise.resolve({ state: 'done', seconds: 1, outcome }),
      },
    });
    const ran: number[] = [];
    for (const code of ['a', 'a', 'b', 'b', 'a']) ran.push((await run(job, results, at(code))).ran);
    expect(ran).toEqual([1, 0, 1, 0, 1]);
    expect((await run(job, results)).ran).toBe(0);
  });

  it('loads two files of one name as the two they are', async () => {
    const { job, folder, results } = made({
      seeds: [1],
      hyperparameters: { noise: '[0]' },
      more: { 'second.yaml': algorithmText('{}', './second/centroids.ts') },
    });
    const { mkdirSync } = await import('node:fs');
    mkdirSync(join(folder, 'second'));
    const source = readFileSync(join(folder, 'centroids.ts'), 'utf8');
    writeFileSync(join(folder, 'second/centroids.ts'), source.replace('= [k, d]', '= [0, d]'));
    await run(job, results);
    const [board] = readResults(job, results).boards;
    const accuracy = (name: string): number | undefined =>
      board?.rows.find((r) => r.algorithm === name)?.estimates['accuracy']?.mean;
    expect(accuracy('swept')).toBeGreaterThan(0.6);
    expect(accuracy('second')).toBeCloseTo(1 / 3, 6);
  }, 60_000);

  it('keeps secrets out of the database, the reports and the logs', async () => {
    const { job, folder, results } = made({
      seeds: [1],
      hyperparameters: { noise: '[0]' },
      more: { 'keyed.yaml': algorithmText('{ api_key: very-secret-value, fail: crash }') },
    });
    const source = readFileSync(join(folder, 'centroids.ts'), 'utf8');
    writeFileSync(
      join(folder, 'centroids.ts'),
      source
        .replace('{ noise = 0,', '{ api_key = "", noise = 0,')
        .replace(
          "if (fail === 'crash')",
          "if (fail === 'crash') console.log('my key is ' + api_key);\n      if (fail === 'crash')",
        ),
    );
    const { failed } = await run(job, results);
    const found = readResults(job, results);
    const files = writeReports(found, results, ['html', 'csv', 'markdown', 'json']);
    const log = failed[0]?.log ?? '';
    expect(readFileSync(log, 'utf8')).toMatch(/my key is \(secret\)/);
    const leaking = [...files, log, join(results, 'results.db')].filter((f) =>
      readFileSync(f).includes('very-secret-value'),
    );
    expect(leaking).toEqual([]);
  }, 60_000);

  it('keeps a secret of the environment out of everything too', async () => {
    const { job, folder, results } = made({
      seeds: [1],
      hyperparameters: { noise: '[0]' },
      more: { 'keyed.yaml': algorithmText('{ key: { env: SHOAL_TEST_KEY } }') },
    });
    const source = readFileSync(join(folder, 'centroids.ts'), 'utf8');
    const refusal =
      "if (key !== '') throw new Error('401 for ' + key);\n      if (fail === 'crash')";
    writeFileSync(
      join(folder, 'centroids.ts'),
      source
        .replace('{ noise = 0,', "{ key = '', noise = 0,")
        .replace("if (fail === 'crash')", refusal),
    );
    process.env['SHOAL_TEST_KEY'] = 'from-the-environment';
    const { failed } = await run(job, results);
    delete process.env['SHOAL_TEST_KEY'];
    expect(failed[0]?.error).toMatch(/401 for \(secret\)/);
    const reports = writeReports(readResults(job, results), results, ['html', 'json']);
    const leaking = [...reports, failed[0]?.log ?? '', join(results, 'results.db')].filter((f) =>
      readFileSync(f).includes('from-the-environment'),
    );
    expect(leaking).toEqual([]);
  }, 60_000);

  it('lets one run at a time into a folder, and takes over from a dead one', async () => {
    const { job, results } = made({ seeds: [1], hyperparameters: { sleep: '[1500]' } });
    const first = run(job, results);
    await new Promise((r) => setTimeout(r, 300));
    expect(readFileSync(join(results, 'run.lock'), 'utf8')).toMatch(`${process.pid} `);
    writeFileSync(join(results, 'run.lock'), String(process.ppid));
    await expect(run(job, results)).rejects.toThrow(/is running this job/);
    writeFileSync(join(results, 'run.lock'), '999999');
    await first;
    writeFileSync(join(results, 'run.lock'), '999999');
    expect((await run(job, results)).kept).toBe(1);
    // Its number was given to another process since.
    writeFileSync(join(results, 'run.lock'), `${process.ppid} 12345`);
    expect((await run(job, results)).kept).toBe(1);
  }, 60_000);
});

describe('planning a job', () => {
  it('finds a metric that says nothing about the paradigm', async () => {
    const { job, folder } = made();
    const env = readFileSync(join(folder, 'testenv.yaml'), 'utf8');
    writeFileSync(join(folder, 'testenv.yaml'), env.replace('auc', 'BWT'));
    await expect(planJob(job)).rejects.toThrow(/metric bwt says nothing about singletasklearning/);
  });

  it('refuses to sort by a metric that is not measured, or the wrong way round', async () => {
    const { job } = made();
    const text = readFileSync(job, 'utf8');
    writeFileSync(job, text.replace('sort_by: [accuracy]', 'sort_by: [acuracy]'));
    await expect(planJob(job)).rejects.toThrow(/no metric "acuracy"; did you mean "accuracy"\?/);
    writeFileSync(job, text.replace('sort_by: [accuracy]', 'sort_by: [{ accuracy: ascend }]'));
    await expect(planJob(job)).rejects.toThrow(
      /would put the worst first. Write accuracy: descend/,
    );
  });

  it('finds a parameter that is misspelt before anything runs', async () => {
    const planned = async (paradigm: string, module: string): Promise<unknown> => {
      const text = algorithmText('{}')
        .replace('singletasklearning', paradigm)
        .replace(/\n$/, `\n    - ${module}\n`);
      const { job } = made({
        seeds: [1],
        hyperparameters: { noise: '[0]' },
        more: { 'odd.yaml': text },
      });
      return await planJob(job);
    };
    await expect(
      planned(
        'federatedlearning',
        '{ type: aggregation, name: FedAdam, hyperparameters: { taw: 1 } }',
      ),
    ).rejects.toThrow(/odd\.yaml:5: .*strategy FedAdam has no parameter "taw"/);
    await expect(
      planned(
        'federatedlearning',
        '{ type: aggregation, name: pooled, hyperparameters: { mu: 3 } }',
      ),
    ).rejects.toThrow(/pooled has no parameter "mu"/);
    await expect(
      planned(
        'lifelonglearning',
        '{ type: learner, name: rehearsal, hyperparameters: { memroy: 5 } }',
      ),
    ).rejects.toThrow(/rehearsal has no parameter "memroy"; did you mean "memory"\?/);
    await expect(
      planned(
        'incrementallearning',
        '{ type: hard_example_mining, name: CrossEntropy, hyperparameters: { threshold_cross_entropie: 1 } }',
      ),
    ).rejects.toThrow(/threshold_cross_entropie/);
  });

  it('counts every value that is no secret, and refuses a variable that is not set', async () => {
    const ids = async (value: string): Promise<string[]> => {
      const { job } = made({ seeds: [1], more: { 'odd.yaml': algorithmText(value) } });
      return (await planJob(job)).cases.map((c) => c.id);
    };
    const [first, second] = [
      await ids('{ high_pass: 0.25, secret_shares: 2 }'),
      await ids('{ high_pass: 8, secret_shares: 2 }'),
    ];
    expect(first[0]).toBe(second[0]);
    expect(first[1]).not.toBe(second[1]);
    // Another secret is another case, whatever is shown of it.
    expect((await ids('{ api_key: a }'))[1]).not.toBe((await ids('{ api_key: b }'))[1]);
    await expect(ids('{ noise: { env: SHOAL_NOT_SET } }')).rejects.toThrow(
      /odd\.yaml:\d+: .*the variable SHOAL_NOT_SET is not set/,
    );
  });

  it('refuses a module that exports no function', async () => {
    const { job, folder } = made({ seeds: [1], hyperparameters: { noise: '[0]' } });
    writeFileSync(join(folder, 'centroids.ts'), 'export const centroids = 5;\n');
    const { cases } = await planJob(job);
    expect(cases[0]?.problem).toMatch(/exports no function centroids .* it exports: centroids/);
  });

  it('gives a case another id when the model it starts from changes', async () => {
    const { job, folder } = made({ seeds: [1], hyperparameters: { noise: '[0]' } });
    const text = readFileSync(join(folder, 'swept.yaml'), 'utf8');
    writeFileSync(join(folder, 'swept.yaml'), `${text}  initial_model_url: ./first.onnx\n`);
    await expect(planJob(job)).rejects.toThrow(/first\.onnx/);
    writeFileSync(join(folder, 'first.onnx'), 'one');
    const before = (await planJob(job)).cases[0]?.id;
    writeFileSync(join(folder, 'first.onnx'), 'two');
    expect((await planJob(job)).cases[0]?.id).not.toBe(before);
  });

  it('takes texts that look like paths for what they are', async () => {
    const { job } = made({ seeds: [1], hyperparameters: { prompt: '["/think", "/no_think"]' } });
    const ids = (await planJob(job)).cases.map((c) => c.id);
    expect(new Set(ids).size).toBe(2);
  });

  it('says what to do with a module of Ianvs', async () => {
    const { job, folder } = made({ seeds: [1], hyperparameters: { noise: '[0]' } });
    const text = readFileSync(join(folder, 'swept.yaml'), 'utf8');
    writeFileSync(join(folder, 'swept.yaml'), text.replace('centroids.ts', 'basemodel.py'));
    const { cases } = await planJob(job);
    expect(cases[0]?.problem).toMatch(/basemodel\.py is Python; a module here is a TypeScript/);
  });

  it('names the slot a paradigm lacks', async () => {
    const { job, folder } = made();
    const text = readFileSync(join(folder, 'swept.yaml'), 'utf8');
    writeFileSync(join(folder, 'swept.yaml'), text.replace('singletasklearning', 'jointinference'));
    await expect(planJob(job)).rejects.toThrow(/jointinference needs a module of type edgemodel/);
  });

  it('names the file of samples that is not there', async () => {
    const { job, folder } = made();
    const env = readFileSync(join(folder, 'testenv.yaml'), 'utf8');
    writeFileSync(
      join(folder, 'testenv.yaml'),
      env.replace('test_data: ./test.csv', 'test_data: ./other/test.csv'),
    );
    await expect(planJob(job)).rejects.toThrow(new RegExp(`${folder}/other/test.csv`));
  });
});
