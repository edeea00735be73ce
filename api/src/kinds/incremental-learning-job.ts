import {
  boolean,
  type Field,
  integer,
  type KindDefinition,
  list,
  number,
  object,
  string,
  time,
} from '../schema/fields.ts';
import { placement, placementStatus, rollout, rolloutStatus } from '../schema/placement.ts';
import {
  hardExampleMining,
  observedGeneration,
  parameter,
  reference,
  stageConditions,
  template,
  trigger,
} from '../schema/shared.ts';

/** How hard examples travel, and who labels them beside people. */
const hardExamples: Field = object(
  'Hard examples become training data: kept at the edge, sent to the cloud, labelled there, appended to the dataset. Left out: hard examples are marked, not kept.',
  {
    maxSamples: integer('Samples the cloud keeps for this job until they are in the dataset.', {
      default: 10_000,
      minimum: 1,
    }),
    edgeSpool: object(
      'What an edge keeps until the cloud has it; the oldest go first.',
      {
        maxSamples: integer('Samples.', { default: 1_000, minimum: 1 }),
        maxBytes: integer('Bytes.', { default: 67_108_864, minimum: 1_024 }),
      },
      'EdgeSpool',
    ),
    labels: object(
      'Who labels beside people; people label with `shoal label`.',
      {
        model: object(
          'A model in the cloud that labels what it is sure of; the rest gets its guess as a suggestion.',
          {
            'name!': string('Name of a Model in the same namespace.', { minLength: 1 }),
            minConfidence: number('Least probability of the likeliest class for a label.', {
              default: 0.9,
              minimum: 0,
              maximum: 1,
            }),
            'template!': template,
          },
          'LabelModel',
        ),
      },
      'LabelSources',
    ),
  },
  'HardExamples',
);

const guards: Field = list(
  'Slices on which a new model may not be worse, whatever the trigger says.',
  object(
    'One guarded slice: the evaluation samples of a class, or another dataset.',
    {
      'name!': string('Name of the slice.', { pattern: '^[A-Za-z0-9_-]+$' }),
      label: integer('Class whose evaluation samples are the slice.', { minimum: 0 }),
      dataset: reference('Dataset'),
      metric: string('Metric that is compared.', { default: 'accuracy' }),
      maxDrop: number('How much lower than the deployed model’s it may be.', {
        default: 0,
        minimum: 0,
      }),
    },
    'Guard',
  ),
);

const driftDetection: Field = object(
  'Watches the confidence of the served model; each alarm counts for the training trigger’s metric `drift`.',
  {
    'name!': string('The test.', { enum: ['PageHinkley', 'ADWIN'] }),
    parameters: list('PageHinkley: delta, threshold, minInstances. ADWIN: delta.', parameter),
  },
  'DriftDetection',
);

const count = (what: string): Field => integer(what, { minimum: 0 });

/** What happened to hard examples, and what the serving workers say of themselves. */
const loopStatus: Record<string, Field> = {
  hardExamples: object(
    'Hard examples on their way into the dataset.',
    {
      collected: count('Kept by the edges.'),
      dropped: count('Given up by edges whose spool was full.'),
      spooled: count('Waiting at the edges.'),
      waiting: count('In the cloud, without a label.'),
      labelled: count('Labelled, not yet in the dataset.'),
      delivered: count('In the dataset.'),
      rejected: count('Refused, by a person or because they fit no line of the dataset.'),
    },
    'HardExampleStatus',
  ),
  inference: object(
    'Figures of the serving workers together.',
    {
      inferences: count('Samples answered.'),
      hard: count('Of them hard.'),
      hardRatio: number('hard / inferences.'),
      driftAlarms: count('Times the drift detection rang.'),
      lastDriftAlarm: time('When it rang last.'),
    },
    'InferenceStatus',
  ),
  models: list(
    'Models that were served, newest last; the last 10 are kept. `shoal model rollback` goes back to one.',
    object(
      'One of them.',
      {
        'digest!': string('sha256 of the model.'),
        'round!': count('Round that made it; 0 is the model the job began with.'),
        deployedAt: time('When it began to serve.'),
        metrics: list(
          'Its evaluation.',
          object(
            'One figure.',
            {
              'key!': string('Name.'),
              'value!': string('Value, as text.'),
            },
            'ModelMetric',
          ),
        ),
      },
      'ServedModel',
    ),
  ),
};

export const incrementalLearningJob: KindDefinition = {
  kind: 'IncrementalLearningJob',
  plural: 'incrementallearningjobs',
  singular: 'incrementallearningjob',
  shortNames: ['il'],
  description:
    'Trains on new samples, evaluates against the deployed model, deploys what is better.',
  spec: object(
    'Dataset, models, and the three stages.',
    {
      'dataset!': object(
        'The growing dataset.',
        {
          'name!': string('Name of a Dataset in the same namespace.', { minLength: 1 }),
          'trainProb!': number('Share of new samples used for training; the rest evaluates.', {
            minimum: 0,
            maximum: 1,
          }),
        },
        'IncrementalDataset',
      ),
      'initialModel!': reference('Model'),
      'trainSpec!': object(
        'Training.',
        { 'template!': template, 'trigger!': trigger },
        'TrainSpec',
      ),
      'evalSpec!': object(
        'Evaluation.',
        { 'template!': template, initialEvalModel: reference('Model'), guards },
        'EvalSpec',
      ),
      'deploySpec!': object(
        'Deployment.',
        {
          'model!': object(
            'The model that is served.',
            {
              'name!': string('Name of a Model in the same namespace.', { minLength: 1 }),
              hotUpdateEnabled: boolean('Swap the model inside the running worker.', {
                default: false,
              }),
              pollPeriodSeconds: integer('How often the worker looks for a new model.', {
                default: 60,
                minimum: 1,
              }),
              pin: string(
                'Digest of a model of status.models that is served whatever training brings; see `shoal model rollback`.',
                { pattern: '^sha256:[0-9a-f]{64}$' },
              ),
            },
            'DeployModel',
          ),
          'trigger!': trigger,
          'hardExampleMining!': hardExampleMining,
          driftDetection,
          rollout,
          'template!': template,
        },
        'DeploySpec',
      ),
      placement,
      hardExamples,
      credentialName: string('Secret for outputDir.'),
      'outputDir!': string('Host path or s3:// where stages write.', { minLength: 1 }),
    },
    'IncrementalLearningJobSpec',
  ),
  status: object(
    'The stage machine.',
    {
      conditions: stageConditions,
      startTime: time('When the job was first seen.'),
      completionTime: time('When the job ended.'),
      round: integer('Training rounds begun.', { minimum: 0 }),
      deployedModel: string('sha256 of the model that is served.'),
      ...loopStatus,
      placement: placementStatus,
      rollout: rolloutStatus,
      message: string('Why the job is not making progress, if it is not.'),
      observedGeneration,
    },
    'IncrementalLearningJobStatus',
  ),
  columns: [
    { name: 'Stage', type: 'string', jsonPath: '.status.conditions[-1:].stage' },
    { name: 'Status', type: 'string', jsonPath: '.status.conditions[-1:].type' },
    { name: 'Round', type: 'integer', jsonPath: '.status.round' },
    { name: 'Message', type: 'string', jsonPath: '.status.message', priority: 1 },
    { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' },
  ],
};
