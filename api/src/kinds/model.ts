import { integer, type KindDefinition, list, object, string, time } from '../schema/fields.ts';
import { conditions, metrics, observedGeneration } from '../schema/shared.ts';

export const model: KindDefinition = {
  kind: 'Model',
  plural: 'models',
  singular: 'model',
  shortNames: ['mo'],
  description: 'A model file or directory.',
  spec: object(
    'Where the model is.',
    {
      'url!': string('A path on the node that uses it, s3://, or http(s)://…', {
        minLength: 1,
      }),
      'format!': string('Suffix of the file, for example onnx, pb, ckpt or pth.', { minLength: 1 }),
      device_soc_versions: list('Accelerators this model was built for.', string('SoC version.')),
      credentialName: string('Secret with the storage credentials.'),
    },
    'ModelSpec',
  ),
  status: object(
    'What is known of the model.',
    {
      updateTime: time('When the metrics last changed.'),
      metrics,
      digest: string('sha256 of the newest published content.'),
      sizeBytes: integer('Size of the newest published content.', { minimum: 0 }),
      observedGeneration,
      conditions,
    },
    'ModelStatus',
  ),
  columns: [
    { name: 'Format', type: 'string', jsonPath: '.spec.format' },
    { name: 'URL', type: 'string', jsonPath: '.spec.url' },
    { name: 'Digest', type: 'string', jsonPath: '.status.digest', priority: 1 },
    { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' },
  ],
};
