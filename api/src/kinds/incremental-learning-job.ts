import {
  boolean,
  integer,
  type KindDefinition,
  number,
  object,
  string,
  time,
} from '../schema/fields.ts';
import {
  hardExampleMining,
  observedGeneration,
  reference,
  stageConditions,
  template,
  trigger,
} from '../schema/shared.ts';

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
        { 'template!': template, initialEvalModel: reference('Model') },
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
            },
            'DeployModel',
          ),
          'trigger!': trigger,
          'hardExampleMining!': hardExampleMining,
          'template!': template,
        },
        'DeploySpec',
      ),
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
