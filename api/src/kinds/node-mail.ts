import { type Fields, integer, type KindDefinition, object, string } from '../schema/fields.ts';

/**
 * Kinds of our own, for nodes whose link is a Kubernetes API server (KubeEdge's at the edge, or any
 * kubeconfig): what EdgeLink carries, as objects in a namespace of the node.
 */

const key: Fields = {
  'kind!': string('Kind of the object.', { minLength: 1 }),
  namespace: string('Its namespace.'),
  'name!': string('Its name.', { minLength: 1 }),
};

const status = object('Nothing is said of it.', {});

export const nodeObject: KindDefinition = {
  kind: 'NodeObject',
  plural: 'nodeobjects',
  singular: 'nodeobject',
  shortNames: [],
  description: 'Something a node should know. Written by the global manager, read by the node.',
  spec: object('The object and its body.', {
    ...key,
    'uid!': string('Identity of the object.'),
    'digest!': string('sha256 of the body.', { pattern: '^sha256:[0-9a-f]{64}$' }),
    'body!': string('The body, as JSON text.'),
  }),
  status,
  columns: [
    { name: 'Of', type: 'string', jsonPath: '.spec.kind' },
    { name: 'Object', type: 'string', jsonPath: '.spec.name' },
    { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' },
  ],
};

export const nodeRecord: KindDefinition = {
  kind: 'NodeRecord',
  plural: 'noderecords',
  singular: 'noderecord',
  shortNames: [],
  description: 'Something a node says. Written by the node, taken by the global manager.',
  spec: object('The record.', {
    'edgeStore!': string('Identity of the node’s own database: numbers belong to it.', {
      minLength: 1,
    }),
    'stream!': string('state, or log/ and a name.', { pattern: '^(state|log/[A-Za-z0-9_.-]+)$' }),
    'seq!': integer('Its number on the stream.', { minimum: 1 }),
    first: integer('Of a log: the oldest number the node still holds.', { minimum: 0 }),
    idempotencyKey: string('Of a log: the same effect has the same key.'),
    'key!': string('What it is about: kind/namespace/name, and a part.', { minLength: 1 }),
    'body!': string('The body, as JSON text.'),
  }),
  status,
  columns: [
    { name: 'About', type: 'string', jsonPath: '.spec.key' },
    { name: 'Stream', type: 'string', jsonPath: '.spec.stream' },
    { name: 'Seq', type: 'integer', jsonPath: '.spec.seq' },
    { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' },
  ],
};
