import { type KindDefinition, list, object, string } from '../schema/fields.ts';
import {
  conditions,
  jobStatus,
  observedGeneration,
  reference,
  template,
} from '../schema/shared.ts';

export const federatedLearningJob: KindDefinition = {
  kind: 'FederatedLearningJob',
  plural: 'federatedlearningjobs',
  singular: 'federatedlearningjob',
  shortNames: ['fl'],
  description: 'Data stays where it is, weights travel.',
  spec: object(
    'One aggregator, several participants.',
    {
      'aggregationWorker!': object(
        'The aggregator.',
        { 'model!': reference('Model'), 'template!': template },
        'AggregationWorker',
      ),
      'trainingWorkers!': list(
        'The participants.',
        object(
          'A participant.',
          { 'dataset!': reference('Dataset'), 'template!': template },
          'TrainingWorker',
        ),
        { minItems: 1 },
      ),
      pretrainedModel: reference('Model'),
      transmitter: object(
        'How weights travel; websocket unless s3 is given.',
        {
          s3: object(
            'Through object storage.',
            {
              'aggDataPath!': string('s3:// folder.'),
              credentialName: string('Secret with the storage credentials.'),
            },
            'S3Transmitter',
          ),
          ws: object('Over a connection to the aggregator.', {}, 'WebsocketTransmitter'),
        },
        'Transmitter',
      ),
    },
    'FederatedLearningJobSpec',
  ),
  status: object(
    'State of the job.',
    { conditions, ...jobStatus, observedGeneration },
    'FederatedLearningJobStatus',
  ),
  columns: [
    { name: 'Phase', type: 'string', jsonPath: '.status.phase' },
    { name: 'Active', type: 'integer', jsonPath: '.status.active' },
    { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' },
  ],
};
