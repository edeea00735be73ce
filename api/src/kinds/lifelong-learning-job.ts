import {
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
  observedGeneration,
  stageConditions,
  template,
  templateOnly,
  trigger,
} from '../schema/shared.ts';

const knowledgeBase = object(
  'What the knowledge base holds.',
  {
    'AIModels!': object(
      'Models.',
      {
        'numberOfAIModels!': integer('How many.'),
        listOfAIModels: list(
          'Each model.',
          object(
            'A model.',
            {
              'modelID!': string('Identity.'),
              'averagePrecision!': number('Precision.'),
              'numberOfTrainSamples!': integer('Samples it was trained on.'),
            },
            'KnowledgeModel',
          ),
        ),
      },
      'KnowledgeModels',
    ),
    'AIClasses!': object(
      'Classes.',
      {
        'numberOfAIClasses!': integer('How many.'),
        listOfAIClasses: list('Each class.', string('Name of the class.')),
      },
      'KnowledgeClasses',
    ),
    'samples!': object(
      'Samples.',
      {
        'numberOfLabeledUnseenSample!': integer('Unseen samples that have labels.'),
        'numberOfUnseenSample!': integer('Unseen samples.'),
      },
      'KnowledgeSamples',
    ),
  },
  'KnowledgeBaseStatus',
);

export const lifelongLearningJob: KindDefinition = {
  kind: 'LifelongLearningJob',
  plural: 'lifelonglearningjobs',
  singular: 'lifelonglearningjob',
  shortNames: ['ll'],
  description: 'A cloud knowledge base of tasks; edges meet unseen ones.',
  spec: object(
    'Dataset and the three stages.',
    {
      'dataset!': object(
        'The growing dataset.',
        {
          'name!': string('Name of a Dataset in the same namespace.', { minLength: 1 }),
          'trainProb!': number('Share of new samples used for training.', {
            minimum: 0,
            maximum: 1,
          }),
        },
        'LifelongDataset',
      ),
      'trainSpec!': object(
        'Training.',
        { 'template!': template, 'trigger!': trigger },
        'LifelongTrainSpec',
      ),
      'evalSpec!': templateOnly,
      'deploySpec!': object(
        'Deployment.',
        { 'template!': template, rollout },
        'LifelongDeploySpec',
      ),
      placement,
      credentialName: string('Secret for outputDir.'),
      'outputDir!': string('Host path or s3:// where stages write.', { minLength: 1 }),
    },
    'LifelongLearningJobSpec',
  ),
  status: object(
    'The stage machine and the knowledge base.',
    {
      conditions: stageConditions,
      startTime: time('When the job was first seen.'),
      completionTime: time('When the job ended.'),
      round: integer('Training rounds begun.', { minimum: 0 }),
      deployedModel: string('sha256 of the index of the knowledge base that is served.'),
      message: string('Why the job is not making progress, if it is not.'),
      knowledgeBase,
      placement: placementStatus,
      rollout: rolloutStatus,
      observedGeneration,
    },
    'LifelongLearningJobStatus',
  ),
  columns: [
    { name: 'Stage', type: 'string', jsonPath: '.status.conditions[-1:].stage' },
    { name: 'Status', type: 'string', jsonPath: '.status.conditions[-1:].type' },
    {
      name: 'Models',
      type: 'integer',
      jsonPath: '.status.knowledgeBase.AIModels.numberOfAIModels',
    },
    { name: 'Round', type: 'integer', jsonPath: '.status.round' },
    { name: 'Message', type: 'string', jsonPath: '.status.message', priority: 1 },
    { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' },
  ],
};
