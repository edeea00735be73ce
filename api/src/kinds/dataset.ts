import { integer, type KindDefinition, object, string, time } from '../schema/fields.ts';
import { conditions, observedGeneration } from '../schema/shared.ts';

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
    },
    'DatasetSpec',
  ),
  status: object(
    'What the node found.',
    {
      numberOfSamples: integer('Samples counted.', { minimum: 0 }),
      updateTime: time('When the count last changed.'),
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
    { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' },
  ],
};
