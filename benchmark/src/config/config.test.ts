import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { axisName, readAlgorithm } from './algorithm.ts';
import { readBenchmarkingJob } from './benchmarking-job.ts';
import { ConfigFile, ConfigNode } from './config-node.ts';
import { combinations } from './sweep.ts';
import { readTestEnv } from './test-env.ts';

const dir = mkdtempSync(join(tmpdir(), 'shoal-config-'));
afterAll(() => rmSync(dir, { recursive: true }));

function file(text: string): ConfigFile {
  return ConfigFile.parse('/jobs/some.yaml', text);
}

function testEnv(text: string): ReturnType<typeof readTestEnv> {
  return readTestEnv(new ConfigNode(file(text)));
}

function algorithm(text: string): ReturnType<typeof readAlgorithm> {
  return readAlgorithm(new ConfigNode(file(text)), 'mine');
}

const JOB = `benchmarkingjob:
  name: mine
  testenv: ./testenv.yaml
  test_object:
    type: algorithms
    algorithms: [{ name: a, url: ./a.yaml }]
`;

function job(text: string): ReturnType<typeof readBenchmarkingJob> {
  const path = join(dir, 'benchmarkingjob.yaml');
  writeFileSync(path, text);
  return readBenchmarkingJob(path);
}

describe('a job', () => {
  it('has paths seen from its own folder, whatever the working directory', () => {
    const { testenv, algorithms } = job(JOB);
    expect(testenv).toBe(join(dir, 'testenv.yaml'));
    expect(algorithms[0]?.file).toBe(join(dir, 'a.yaml'));
  });

  it('is repeated three times when it does not say how often', () => {
    expect(job(JOB).seeds).toEqual([1, 2, 3]);
    expect(job(`${JOB}  repeats: 5\n`).seeds).toEqual([1, 2, 3, 4, 5]);
    expect(job(`${JOB}  seeds: [7, 9]\n`).seeds).toEqual([7, 9]);
  });

  it('sorts by metrics in either way of writing', () => {
    const text = `${JOB}  rank: { sort_by: [accuracy, { bytes_up: ascend }] }\n`;
    const { rank } = job(text);
    expect(rank.sortBy).toEqual(['accuracy', 'bytes_up']);
    expect(rank.claimed).toEqual({ bytes_up: 'ascend' });
  });

  it.each([
    [
      'an unknown key, with line and the nearest known one',
      `${JOB}  sedes: [1]\n`,
      /benchmarkingjob\.yaml:7: benchmarkingjob\.sedes: unknown key "sedes"; did you mean "seeds"\?/,
    ],
    ['a key beside its place', `${JOB}visualization: {}\n`, /:7: visualization: unknown key/],
    ['the same seed twice', `${JOB}  seeds: [1, 1]\n`, /a seed twice/],
    ['no seed at all', `${JOB}  seeds: []\n`, /at least one seed/],
    ['seeds and repeats', `${JOB}  seeds: [1]\n  repeats: 2\n`, /same thing/],
    ['a script that makes a cluster', `${JOB}  simulation: { edge_number: 2 }\n`, /--on cluster/],
    ['no name', JOB.replace('name: mine', 'name: ""'), /name: expected a text/],
    ['a name that would leave the folder', JOB.replace('mine', '../x'), /no name/],
    [
      'algorithms with one name',
      JOB.replace(
        '[{ name: a, url: ./a.yaml }]',
        '[{ name: a, url: ./a.yaml }, { name: a, url: ./b.yaml }]',
      ),
      /"a" is taken/,
    ],
    ['a key twice', `${JOB}  name: other\n`, /benchmarkingjob\.yaml:7: Map keys must be unique/],
    [
      'two metrics in one entry',
      `${JOB}  rank: { sort_by: [{ a: descend, b: ascend }] }\n`,
      /expected one metric/,
    ],
  ])('refuses %s', (_what, text, message) => {
    expect(() => job(text)).toThrow(message);
  });

  it('says that a file is not there', () => {
    expect(() => readBenchmarkingJob(join(dir, 'nothing.yaml'))).toThrow(/nothing\.yaml/);
  });
});

const ENV = `testenv:
  dataset: { test_data: ./test.csv }
  metrics: [accuracy]
`;

describe('a test environment', () => {
  it('resolves data beside the file', () => {
    const { dataset } = testEnv(ENV);
    expect(dataset).toMatchObject({ kind: 'files', test: '/jobs/test.csv', train: undefined });
  });

  it.each([
    [
      'a key that Ianvs no longer reads',
      ENV.replace('test_data', 'test_url'),
      /:2: testenv\.dataset\.test_url: is not read; use test_index/,
    ],
    [
      'index and data at once',
      ENV.replace('{ test_data', '{ test_index: ./i.txt, test_data'),
      /keep one/,
    ],
    ['no test data', ENV.replace('test_data', 'train_data'), /no samples to test on/],
    ['no metrics', ENV.replace('[accuracy]', '[]'), /nothing would be measured/],
    [
      'a metric as a text',
      ENV.replace('[accuracy]', 'accuracy'),
      /metrics: expected a list, got string "accuracy"/,
    ],
    [
      'rounds below one',
      `${ENV}  round: 0\n`,
      /:4: testenv\.round: expected a whole number in \[1/,
    ],
    [
      'a misspelt partition',
      `${ENV}  partition: { method: dirichle }\n`,
      /did you mean "dirichlet"\?/,
    ],
    ['a graphics card', `${ENV}  use_gpu: true\n`, /processor/],
    [
      'a trace that runs backwards',
      `${ENV}  devices: { traces: [[[5, 2]]] }\n`,
      /one after the other/,
    ],
  ])('refuses %s', (_what, text, message) => {
    expect(() => testEnv(text)).toThrow(message);
  });
});

describe('a network', () => {
  it.each([
    ['a name nobody knows', '{ profile: 5H }', /did you mean "5G"\?/],
    ['a profile and a rate', '{ profile: 4G, up_mbps: 1 }', /up_mbps: a profile says this already/],
  ])('refuses %s', (_what, network, message) => {
    expect(() => testEnv(`${ENV}  network: ${network}\n`)).toThrow(message);
  });
});

const ALGORITHM = `algorithm:
  paradigm_type: federatedlearning
  modules:
    - type: basemodel
      name: net
      url: ./net.ts
      hyperparameters:
        - learning_rate: 0.1
        - epochs: 2
    - { type: aggregation, name: FedAvg }
`;

describe('an algorithm', () => {
  it('takes hyper-parameters as Ianvs writes them, or as a map', () => {
    const [listed] = algorithm(ALGORITHM).modules;
    const map = ALGORITHM.replace('- learning_rate', 'learning_rate').replace('- epochs', 'epochs');
    expect(listed?.hyperparameters).toEqual({ learning_rate: 0.1, epochs: 2 });
    expect(algorithm(map).modules[0]?.hyperparameters).toEqual(listed?.hyperparameters);
  });

  it('keeps both of two hyper-parameters in one item of the list', () => {
    const text = ALGORITHM.replace(
      '- learning_rate: 0.1',
      '- { learning_rate: 0.1, momentum: 0.9 }',
    );
    expect(algorithm(text).modules[0]?.hyperparameters).toMatchObject({
      learning_rate: 0.1,
      momentum: 0.9,
    });
  });

  it('understands where Ianvs puts the way data is parted', () => {
    const text = `${ALGORITHM}  fl_data_setting: { data_partition: non-iid, non_iid_ratio: 0.4 }\n`;
    expect(algorithm(text).partition).toMatchObject({ method: 'classes', classRatio: 0.4 });
  });

  it.each([
    [
      'two modules of one type',
      ALGORITHM.replace('aggregation', 'basemodel'),
      /two modules of type basemodel; to compare them, sweep the name/,
    ],
    ['a hyper-parameter twice', ALGORITHM.replace('epochs', 'learning_rate'), /given twice/],
    [
      'a type nobody knows',
      ALGORITHM.replace('aggregation', 'agregation'),
      /did you mean "aggregation"\?/,
    ],
    [
      'hyper-parameters beside the modules',
      `${ALGORITHM}  hyperparameters: []\n`,
      /unknown key "hyperparameters"/,
    ],
    [
      'a paradigm nobody knows',
      ALGORITHM.replace('federatedlearning', 'federated'),
      /did you mean|Known are/,
    ],
  ])('refuses %s', (_what, text, message) => {
    expect(() => algorithm(text)).toThrow(message);
  });
});

describe('settings that would do nothing', () => {
  const head = 'algorithm:\n  modules: [{ type: basemodel, name: m, url: ./m.ts }]\n';
  it.each([
    [
      'paradigm_type: jointinference\n  pipeline: { stages: 2 }',
      /pipeline: means nothing to jointinference/,
    ],
    [
      'paradigm_type: lifelonglearning\n  federation: { selected: 2 }',
      /federation: means nothing to lifelonglearning/,
    ],
    [
      'paradigm_type: federatedlearning\n  partition: { method: iid }\n  fl_data_setting: { data_partition: iid }',
      /data_partition: there is a partition too; keep one/,
    ],
  ])('are refused: %s', (text, reason) => {
    expect(() => algorithm(`${head}  ${text}\n`)).toThrow(reason);
  });

  it('are refused beside a module that makes its samples', () => {
    expect(() =>
      testEnv(
        'testenv:\n  dataset: { url: ./data.ts, train_data: ./x.csv }\n  metrics: [accuracy]\n',
      ),
    ).toThrow(/train_data: belongs to samples in files/);
  });

  it('an entry of a list is an axis of its own', () => {
    const text =
      'testenv:\n  network:\n    profiles:\n      - { values: [4G, 3G] }\n      - { values: [DSL, LoRa] }\n';
    const names = combinations(file(text))[0]?.chosen.map(({ path }) => axisName(file(text), path));
    expect(names).toEqual(['network.profiles[0]', 'network.profiles[1]']);
  });
});

describe('sweeping', () => {
  it('knows anchors, merge keys, and names the file of an alias that leads nowhere', () => {
    const merged = file('a: &x { k: 1 }\nb: { <<: *x, l: 2 }').value;
    expect(merged).toEqual({ a: { k: 1 }, b: { k: 1, l: 2 } });
    expect(() => file('a: *nowhere')).toThrow(/some\.yaml/);
  });

  it('makes every combination, the first axis slowest', () => {
    const chosen = combinations(file('a: { values: [1, 2] }\nb: { c: { values: [x, y] } }')).map(
      (c) => c.value,
    );
    expect(chosen).toEqual([
      { a: 1, b: { c: 'x' } },
      { a: 1, b: { c: 'y' } },
      { a: 2, b: { c: 'x' } },
      { a: 2, b: { c: 'y' } },
    ]);
  });

  it.each([
    [
      'a text where a list is meant',
      'a: { values: "0.1" }',
      /:1: a\.values: must be a list, got "0\.1"; write values: \[0\.1\]/,
    ],
    ['a number where a list is meant', 'a:\n  values: 0.1', /:2: a\.values: must be a list/],
    ['nothing to choose from', 'a: { values: [] }', /there would be no case/],
  ])('refuses %s', (_what, text, message) => {
    expect(() => combinations(file(text))).toThrow(message);
  });

  it('refuses more combinations than anybody can run, before making them', () => {
    const values = `{ values: [${Array.from({ length: 100 }, (_, i) => i).join(', ')}] }`;
    const text = Array.from({ length: 6 }, (_, i) => `k${i}: ${values}`).join('\n');
    expect(() => combinations(file(text))).toThrow(/at most 100000 can be planned/);
  });
});
