import {
  boolean,
  integer,
  type KindDefinition,
  list,
  number,
  object,
  string,
} from '../schema/fields.ts';
import { groupLabel, placementGroups, placementStatus } from '../schema/placement.ts';
import {
  conditions,
  jobStatus,
  observedGeneration,
  parameter,
  reference,
  template,
} from '../schema/shared.ts';

const positive = { exclusiveMinimum: true, minimum: 0 };

const strategy = object(
  'How updates become the next model. Shoal’s own.',
  {
    'name!': string(
      'FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi, FedProx, SCAFFOLD, FedBuff (asynchronous), q-FedAvg, Ditto, Median, TrimmedMean, Krum, MultiKrum, Bulyan, GeometricMedian, CenteredClipping or NormBounding.',
      { minLength: 1 },
    ),
    parameters: list('Parameters of the strategy.', parameter),
  },
  'FederatedStrategy',
);

const privacy = object(
  'What can be learned of one participant’s data: differential privacy of the aggregate, secure aggregation, or both. Shoal’s own.',
  {
    clipping: number('Largest L2 norm of one participant’s change; needed for noise.', positive),
    adaptive: boolean('Whether the bound follows the median norm. Default false.'),
    noise: number(
      'Standard deviation of the noise relative to one participant’s influence; 0 for none.',
      { minimum: 0 },
    ),
    epsilon: number('Budget: training stops once ε would exceed it.', positive),
    delta: number('δ of the guarantee. Default 1e-5.', positive),
    secureAggregation: object(
      'Changes are masked: the aggregator learns their sum only. Needs three participants or more, and a strategy that is a mean.',
      {
        range: number(
          'Largest magnitude of a value of a change; default clipping, else 1.',
          positive,
        ),
        stageSeconds: integer('Time participants have for each of its stages; default 60.', {
          minimum: 1,
        }),
      },
      'SecureAggregation',
    ),
  },
  'FederatedPrivacy',
);

const round = object(
  'A finished round.',
  {
    round: integer('Its number, from 1.'),
    participants: integer('Updates that were counted.'),
    samples: integer('Samples behind them.'),
    loss: string('Mean loss at the model the round started from.'),
    accuracy: string('Mean accuracy at that model.'),
    accuracySpread: string('Its 10th, 50th and 90th percentile over the participants.'),
    validationLoss: string('Loss of that model on the samples of spec.evaluation.'),
    validationAccuracy: string('Accuracy of that model on the samples of spec.evaluation.'),
    bytesUp: integer('Bytes of updates received.'),
    bytesDown: integer('Bytes of models sent.'),
    durationMs: integer('From the first task to the new model.'),
    epsilon: string('ε spent after this round.'),
  },
  'FederatedRound',
);

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
      rounds: integer('Rounds to train; default 3. Shoal’s own.', { minimum: 1 }),
      strategy,
      selection: object(
        'Who is asked in a round. Shoal’s own.',
        {
          count: integer('Participants asked per round; default all.', { minimum: 1 }),
          over: integer('Asked beyond that; a round ends when `count` have answered.', {
            minimum: 0,
          }),
        },
        'FederatedSelection',
      ),
      quorum: integer('Fewest updates a round can end with; default all asked. Shoal’s own.', {
        minimum: 1,
      }),
      deadlineSeconds: integer('Time of a round; default 600. Shoal’s own.', { minimum: 1 }),
      privacy,
      compression: object(
        'Encoding of updates. Shoal’s own.',
        {
          'name!': string('none, fp16, int8 or top-k.', {
            enum: ['none', 'fp16', 'int8', 'top-k'],
          }),
          share: number('Share of values that travels with top-k, in (0, 1].', {
            ...positive,
            maximum: 1,
          }),
        },
        'FederatedCompression',
      ),
      localTraining: object(
        'What a participant does in a round. Shoal’s own.',
        {
          epochs: integer('Passes over its data; default 1.', { minimum: 1 }),
          batchSize: integer('Samples a step; default 32.', { minimum: 1 }),
          learningRate: number('Step size; default 0.01.', positive),
        },
        'LocalTraining',
      ),
      evaluation: object(
        'Which model is the best, and when training ends early. Shoal’s own.',
        {
          dataset: reference('Dataset'),
          every: integer('Held-out samples are scored in every so many rounds; default 1.', {
            minimum: 1,
          }),
          patience: integer(
            'Training ends after so many rounds without a better score; default never.',
            {
              minimum: 1,
            },
          ),
        },
        'FederatedEvaluation',
      ),
      topology: string(
        'flat: every participant talks to the aggregator. hierarchical: each group of nodes has an aggregator of its own, which takes part for all of them. Default flat. Shoal’s own.',
        { enum: ['flat', 'hierarchical'] },
      ),
      placement: object(
        'What differs between groups of nodes, and where the aggregators of groups run.',
        {
          groupLabel,
          groups: {
            ...placementGroups,
            description:
              'Groups in which participants work in another way; those of other nodes work as the job says.',
          },
          gatewayLabel: string(
            'Label, set to true, of the node in a group that aggregates; default shoal.dev/gateway. Without such a node it is that of the group’s first participant.',
            { minLength: 1 },
          ),
        },
        'FederatedPlacement',
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
    {
      conditions,
      ...jobStatus,
      observedGeneration,
      placement: placementStatus,
      currentRound: integer('Finished rounds.'),
      bestRound: integer('The round whose starting model scored best.'),
      accuracy: string('Mean accuracy of the newest scored model, in percent.'),
      epsilon: string('ε spent so far.'),
      bytesUp: integer('Bytes of updates received so far.'),
      bytesDown: integer('Bytes of models sent so far.'),
      rounds: list('The last finished rounds, at most 20.', round),
      participants: list(
        'What each participant reports.',
        object(
          'A participant.',
          {
            name: string('Name of its worker.'),
            state: string('Pending, Running, Succeeded or Failed: the phase of its pod.'),
            group: string('The group it belongs to, in topology hierarchical.'),
            node: string('Where it runs.'),
            round: integer('The round it worked on last.'),
            samples: integer('Its samples.'),
            updateTime: string('When it reported.'),
            message: string('Why its last update does not count.'),
          },
          'FederatedParticipant',
        ),
      ),
    },
    'FederatedLearningJobStatus',
  ),
  columns: [
    { name: 'Phase', type: 'string', jsonPath: '.status.phase' },
    { name: 'Round', type: 'integer', jsonPath: '.status.currentRound' },
    { name: 'Best', type: 'integer', jsonPath: '.status.bestRound' },
    { name: 'Accuracy', type: 'string', jsonPath: '.status.accuracy' },
    { name: 'Epsilon', type: 'string', jsonPath: '.status.epsilon', priority: 1 },
    { name: 'Up', type: 'integer', jsonPath: '.status.bytesUp', priority: 1 },
    { name: 'Down', type: 'integer', jsonPath: '.status.bytesDown', priority: 1 },
    { name: 'Active', type: 'integer', jsonPath: '.status.active' },
    { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' },
  ],
};
