import { applyDefaults, prune, type StructuralSchema, validate } from '@shoal/core';
import { expect, test } from 'vitest';
import { allCrds, objectSchema, toCrd } from '../crd.ts';
import { KINDS } from './catalogue.ts';

function schemaOf(kind: string): StructuralSchema {
  const found = KINDS.find((k) => k.kind === kind);
  if (!found) throw new Error(kind);
  return objectSchema(found);
}

/** The schema at a path such as `spec.trainSpec.trigger.timer.start`; `[]` steps into a list. */
function at(schema: StructuralSchema, path: string): StructuralSchema | undefined {
  return path.split('.').reduce<StructuralSchema | undefined>((s, step) => {
    const inner = s?.properties?.[step.replace('[]', '')];
    return step.endsWith('[]') ? inner?.items : inner;
  }, schema);
}

/** Every field of the contract (§1.1–1.7). */
const CONTRACT: Record<string, string[]> = {
  Dataset: [
    'spec.url',
    'spec.format',
    'spec.nodeName',
    'spec.credentialName',
    'status.numberOfSamples',
    'status.updateTime',
  ],
  Model: [
    'spec.url',
    'spec.format',
    'spec.device_soc_versions[]',
    'spec.credentialName',
    'status.updateTime',
    'status.metrics[].key',
    'status.metrics[].value',
  ],
  JointInferenceService: [
    'spec.edgeWorker.model.name',
    'spec.edgeWorker.hardExampleMining.name',
    'spec.edgeWorker.hardExampleMining.parameters[].key',
    'spec.edgeWorker.hardExampleMining.parameters[].value',
    'spec.edgeWorker.template.spec.containers[].env[].name',
    'spec.edgeWorker.hpa.minReplicas',
    'spec.edgeWorker.hpa.maxReplicas',
    'spec.edgeWorker.hpa.metrics[].type',
    'spec.edgeWorker.hpa.behavior.scaleDown',
    'spec.cloudWorker.model.name',
    'spec.cloudWorker.template',
    'spec.cloudWorker.hpa.maxReplicas',
    'status.conditions[].type',
    'status.conditions[].lastHeartbeatTime',
    'status.startTime',
    'status.active',
    'status.failed',
    'status.metrics[].key',
  ],
  FederatedLearningJob: [
    'spec.aggregationWorker.model.name',
    'spec.aggregationWorker.template',
    'spec.trainingWorkers[].dataset.name',
    'spec.trainingWorkers[].template',
    'spec.pretrainedModel.name',
    'spec.transmitter.s3.aggDataPath',
    'spec.transmitter.s3.credentialName',
    'spec.transmitter.ws',
    'status.conditions[].lastProbeTime',
    'status.startTime',
    'status.completionTime',
    'status.active',
    'status.succeeded',
    'status.failed',
    'status.phase',
  ],
  IncrementalLearningJob: [
    'spec.dataset.name',
    'spec.dataset.trainProb',
    'spec.initialModel.name',
    'spec.trainSpec.template',
    'spec.trainSpec.trigger.checkPeriodSeconds',
    'spec.trainSpec.trigger.timer.start',
    'spec.trainSpec.trigger.timer.end',
    'spec.trainSpec.trigger.condition.operator',
    'spec.trainSpec.trigger.condition.threshold',
    'spec.trainSpec.trigger.condition.metric',
    'spec.evalSpec.template',
    'spec.evalSpec.initialEvalModel.name',
    'spec.deploySpec.model.name',
    'spec.deploySpec.model.hotUpdateEnabled',
    'spec.deploySpec.model.pollPeriodSeconds',
    'spec.deploySpec.trigger.condition.metric',
    'spec.deploySpec.hardExampleMining.name',
    'spec.deploySpec.template',
    'spec.credentialName',
    'spec.outputDir',
    'status.conditions[].stage',
    'status.conditions[].data',
    'status.startTime',
    'status.completionTime',
  ],
  LifelongLearningJob: [
    'spec.dataset.trainProb',
    'spec.trainSpec.trigger.condition.metric',
    'spec.evalSpec.template',
    'spec.deploySpec.template',
    'spec.credentialName',
    'spec.outputDir',
    'status.knowledgeBase.AIModels.numberOfAIModels',
    'status.knowledgeBase.AIModels.listOfAIModels[].modelID',
    'status.knowledgeBase.AIModels.listOfAIModels[].averagePrecision',
    'status.knowledgeBase.AIModels.listOfAIModels[].numberOfTrainSamples',
    'status.knowledgeBase.AIClasses.numberOfAIClasses',
    'status.knowledgeBase.AIClasses.listOfAIClasses[]',
    'status.knowledgeBase.samples.numberOfLabeledUnseenSample',
    'status.knowledgeBase.samples.numberOfUnseenSample',
  ],
  FeatureExtractionService: [
    'spec.kafkaSupport',
    'spec.model.name',
    'spec.selector',
    'spec.template',
    'spec.replicas',
    'spec.strategy',
  ],
  ReidJob: [
    'spec.kafkaSupport',
    'spec.template',
    'spec.parallelism',
    'spec.backoffLimit',
    'spec.completions',
    'status.phase',
  ],
  VideoAnalyticsJob: ['spec.model.name', 'spec.template', 'spec.kafkaSupport'],
  ObjectSearchService: [
    'spec.userWorker.template',
    'spec.trackingWorkers[].template',
    'spec.reidWorkers.template',
    'status.active',
  ],
  ObjectTrackingService: ['spec.trackingWorkers[].template', 'spec.reidWorkers.template'],
};

test.each(Object.entries(CONTRACT))('%s has every field of the contract', (kind, paths) => {
  const missing = paths.filter((p) => at(schemaOf(kind), p) === undefined);
  expect(missing).toEqual([]);
});

test('all eleven kinds have plural, short names, status subresource and printer columns', () => {
  expect(KINDS.map((k) => k.kind).toSorted()).toEqual(Object.keys(CONTRACT).toSorted());
  for (const kind of KINDS) {
    const { spec } = toCrd(kind);
    const [version] = spec['versions'] as {
      subresources: object;
      additionalPrinterColumns: unknown[];
    }[];
    expect(version?.subresources).toEqual({ status: {} });
    expect(version?.additionalPrinterColumns.length).toBeGreaterThan(1);
    expect(kind.shortNames.length).toBeGreaterThan(0);
  }
  expect(allCrds().map((c) => c.metadata.name)).toContain('incrementallearningjobs.sedna.io');
});

/** Rules a real API server has for structural schemas. */
function structuralFaults(schema: StructuralSchema, path: string): string[] {
  const faults: string[] = [];
  const typed =
    schema.type !== undefined ||
    schema['x-kubernetes-int-or-string'] ||
    schema['x-kubernetes-preserve-unknown-fields'];
  if (!typed) faults.push(`${path}: no type`);
  if (schema.$ref !== undefined) faults.push(`${path}: $ref is forbidden`);
  if (schema.properties && schema.additionalProperties)
    faults.push(`${path}: properties and additionalProperties exclude each other`);
  if (schema.default !== undefined && validate(schema.default, schema).length > 0)
    faults.push(`${path}: the default does not validate`);
  for (const [name, inner] of Object.entries(schema.properties ?? {}))
    faults.push(...structuralFaults(inner, `${path}.${name}`));
  if (schema.items) faults.push(...structuralFaults(schema.items, `${path}[]`));
  if (typeof schema.additionalProperties === 'object')
    faults.push(...structuralFaults(schema.additionalProperties, `${path}{}`));
  return faults;
}

test.each(KINDS.map((k) => [k.kind]))('%s obeys the rules for structural schemas', (kind) => {
  expect(structuralFaults(schemaOf(kind), kind)).toEqual([]);
});

const template = {
  metadata: { labels: { mine: 'kept' }, annotations: { a: 'kept' } },
  spec: { containers: [{ name: 'c', image: 'i' }] },
};
const job = (): Record<string, unknown> => ({
  apiVersion: 'sedna.io/v1alpha1',
  kind: 'IncrementalLearningJob',
  metadata: { name: 'j' },
  spec: {
    dataset: { name: 'd', trainProb: 0.8 },
    initialModel: { name: 'm' },
    outputDir: '/out',
    trainSpec: {
      template,
      trigger: {
        timer: { start: '02:00', end: '20:00' },
        condition: { operator: '>', threshold: 500, metric: 'num_of_samples' },
      },
    },
    evalSpec: { template },
    deploySpec: {
      model: { name: 'm', hotUpdateEnabled: true },
      trigger: { condition: { operator: '>', threshold: 0.1, metric: 'precision_delta' } },
      hardExampleMining: { name: 'IBT', parameters: [{ key: 'threshold_img', value: '0.9' }] },
      template,
    },
  },
});

test('a manifest written for Sedna is taken as it is, template labels and annotations included', () => {
  const schema = schemaOf('IncrementalLearningJob');
  const { metadata: _serverKnowsItsShape, ...object } = job();
  expect(prune(object, schema)).toEqual([]);
  applyDefaults(object, schema);
  expect(validate(object, schema)).toEqual([]);
  expect(object).toMatchObject({
    spec: { trainSpec: { template }, deploySpec: { model: { pollPeriodSeconds: 60 } } },
  });
});

test.each([
  [
    'dataset.trainProb',
    (s: Record<string, Record<string, unknown>>) => ({
      ...s,
      dataset: { name: 'd', trainProb: 1.5 },
    }),
    /spec\.dataset\.trainProb.*less than or equal to 1/,
  ],
  [
    'deploySpec.model.pollPeriodSeconds',
    (s: Record<string, Record<string, unknown>>) => ({
      ...s,
      deploySpec: { ...s['deploySpec'], model: { name: 'm', pollPeriodSeconds: 0 } },
    }),
    /pollPeriodSeconds.*greater than or equal to 1/,
  ],
  [
    'outputDir',
    (s: Record<string, unknown>) => ({ ...s, outputDir: undefined }),
    /spec\.outputDir: Required value/,
  ],
  [
    'trigger.operator',
    (s: Record<string, Record<string, unknown>>) => ({
      ...s,
      trainSpec: {
        template,
        trigger: { condition: { operator: 'above', threshold: 1, metric: 'x' } },
      },
    }),
    /operator: Unsupported value: "above"/,
  ],
])('a bad %s is refused by name', (_field, change, message) => {
  const object = job();
  object['spec'] = change(object['spec'] as Record<string, Record<string, unknown>>);
  const text = validate(object, schemaOf('IncrementalLearningJob'))
    .map((f) => `${f.field}: ${f.message}`)
    .join('\n');
  expect(text).toMatch(message);
});
