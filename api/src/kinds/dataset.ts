import { integer, type KindDefinition, list, object, string, time } from '../schema/fields.ts';
import { conditions, observedGeneration, parameter } from '../schema/shared.ts';

const credential = (keys: string) =>
  string(`Secret of the same namespace with ${keys}; it goes to the node over its link.`, {
    minLength: 1,
  });

/** Who pushes samples into a dataset; exactly one of them. */
const source = object(
  'Samples that are pushed: the node appends them to the file at url, each one once. Exactly one of mqtt, http, directory and plugin. Shoal’s own.',
  {
    mqtt: object(
      'Messages of a broker. The node acknowledges a message once it is on its disk; the broker keeps the others while the node is away.',
      {
        'address!': string('mqtt://host:1883 or mqtts://host:8883.', {
          pattern: '^mqtts?://[^/?#@]+/?$',
        }),
        'topics!': list(
          'Topics to subscribe to; + and # as in MQTT.',
          string('A topic.', { minLength: 1 }),
          { minItems: 1, maxItems: 100 },
        ),
        qos: integer('Quality of service: 1, or 0 where losing a sample is no harm. Default 1.', {
          minimum: 0,
          maximum: 1,
        }),
        credentialName: credential('username and password, and ca.crt for a private authority'),
      },
      'MqttSource',
    ),
    http: object(
      'Requests to the node: POST /shoal/datasets/NAMESPACE/NAME/samples at its local controller. Without a token only the node itself may send.',
      { credentialName: credential('token, which senders give as a bearer token') },
      'HttpSource',
    ),
    directory: object(
      'Files that appear in a folder of the node, in the format of the dataset, whole once they have stopped growing.',
      {
        'path!': string('The folder, a path on the node.', { pattern: '^/' }),
        suffix: string('Only files whose names end so; default all but hidden ones and .tmp.', {
          minLength: 1,
        }),
        after: string('What becomes of a file that was taken. Default keep.', {
          enum: ['keep', 'delete'],
        }),
      },
      'DirectorySource',
    ),
    plugin: object(
      'A source that the node has of its own; see SHOAL_LC_SOURCE_PLUGINS.',
      {
        'name!': string('Its name.', { minLength: 1 }),
        parameters: list('What it is told.', parameter),
      },
      'PluginSource',
    ),
    maxBytes: integer(
      'Size of the file from which on nothing is taken; senders keep what they have. Default 1 GiB.',
      { minimum: 1_024 },
    ),
  },
  'DatasetSource',
);

export const dataset: KindDefinition = {
  kind: 'Dataset',
  plural: 'datasets',
  singular: 'dataset',
  shortNames: ['ds'],
  description: 'Samples that live on one node (or in object storage) and are counted there.',
  spec: object(
    'Where the samples are.',
    {
      'url!': string('Index file: a path on the node, s3://bucket/key, or http(s)://…', {
        minLength: 1,
      }),
      'format!': string(
        'txt, csv or jsonl, which may grow and are cut into rounds; parquet, npz, idx or images (a folder of images by class), which are counted as a whole. Upper or lower case.',
        { minLength: 1 },
      ),
      nodeName: string('Node whose local controller watches the file.'),
      credentialName: string('Secret with the storage credentials.'),
      source,
    },
    'DatasetSpec',
  ),
  status: object(
    'What the node found.',
    {
      numberOfSamples: integer('Samples counted.', { minimum: 0 }),
      updateTime: time('When the count last changed.'),
      source: object(
        'What the node says of spec.source.',
        {
          state: string(
            'Running; Connecting: not reached at the moment; Full: nothing is taken; Failed: it cannot work as it is.',
            { enum: ['Running', 'Connecting', 'Full', 'Failed'] },
          ),
          message: string('Why, where it is not Running.'),
          received: integer('Samples taken.', { minimum: 0 }),
          rejected: integer('Samples refused because they fit no line of the dataset.', {
            minimum: 0,
          }),
          lastRejection: string('Why the newest of those was refused.'),
          lastSampleTime: time('When a sample was taken last.'),
        },
        'DatasetSourceStatus',
      ),
      observedGeneration,
      conditions,
    },
    'DatasetStatus',
  ),
  columns: [
    { name: 'Node', type: 'string', jsonPath: '.spec.nodeName' },
    { name: 'Format', type: 'string', jsonPath: '.spec.format' },
    { name: 'Samples', type: 'integer', jsonPath: '.status.numberOfSamples' },
    { name: 'Ready', type: 'string', jsonPath: '.status.conditions[-1:].reason' },
    { name: 'Source', type: 'string', jsonPath: '.status.source.state', priority: 1 },
    { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' },
  ],
};
