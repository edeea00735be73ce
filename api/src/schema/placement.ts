import { type Field, type Fields, integer, list, number, object, string } from './fields.ts';
import { parameter, reference } from './shared.ts';

const quantities = (description: string): Field => ({
  type: 'object',
  description,
  additionalProperties: string('A quantity, for example 500m or 1Gi.'),
});

/** What differs in one group of nodes; each field replaces the job's own there. */
export const overrides: Field = object(
  'What is different in this group; what is left out is as the job says.',
  {
    model: reference('Model'),
    parameters: list(
      'Hyper-parameters that replace those of the same key: of the hard example mining where a model is served, of local training where it is federated (epochs, batchSize, learningRate).',
      parameter,
    ),
    threshold: number('Threshold of the hard example mining.', { minimum: 0, maximum: 1 }),
    endpoint: string('Address of the big model, for example http://gateway.local:5000.', {
      pattern: '^https?://',
    }),
    resources: object(
      'Resources of the worker’s containers.',
      { limits: quantities('Most it may use.'), requests: quantities('What it is promised.') },
      'GroupResources',
    ),
    env: list(
      'Environment variables; they replace those of the same name.',
      object(
        'A variable.',
        { 'name!': string('Its name.', { minLength: 1 }), value: string('Its value.') },
        'GroupVariable',
      ),
    ),
  },
  'GroupOverrides',
);

const groups = list(
  'The groups, in the order of a rollout. A node that is in several is in the first.',
  object(
    'A group of nodes.',
    { 'name!': string('Value of the label.', { minLength: 1 }), overrides },
    'PlacementGroup',
  ),
  { minItems: 1, maxItems: 100 },
);

export const groupLabel: Field = string(
  'Label of nodes that names their group; default shoal.dev/group, and where a node has none apps.kubeedge.io/belonging-to, as KubeEdge’s node groups write it.',
  { minLength: 1 },
);

/** One worker on every node of some groups. */
export const placement: Field = object(
  'Runs the worker at the edge on every node of some groups: a node that joins one gets it, one that leaves loses it. Left out: one worker, where its template says. Shoal’s own.',
  { groupLabel, 'groups!': groups },
  'Placement',
);

export const placementGroups: Field = groups;

/** What came of `placement`. */
export const placementStatus: Field = object(
  'What came of spec.placement.',
  {
    nodes: integer('Nodes in the groups.', { minimum: 0 }),
    ready: integer('Of them those whose worker is available.', { minimum: 0 }),
    groups: list(
      'The groups, with what holds there.',
      object(
        'A group.',
        {
          'name!': string('Value of the label.'),
          nodes: integer('Its nodes.', { minimum: 0 }),
          ready: integer('Of them those whose worker is available.', { minimum: 0 }),
          members: list('Names of its nodes; the first 100.', string('A node.')),
          resolved: object(
            'What its workers run with, overrides applied.',
            {
              model: string('Name of the Model.'),
              parameters: list('Hyper-parameters.', parameter),
              threshold: string('Threshold of the hard example mining.'),
              endpoint: string('Address of the big model.'),
              resources: overrides.properties?.['resources'] ?? {},
              env: list('Names of overridden variables.', string('A name.')),
            },
            'ResolvedGroup',
          ),
        },
        'GroupStatus',
      ),
    ),
  },
  'PlacementStatus',
);

const patience: Fields = {
  tolerance: number(
    'Share of a group’s nodes that may fail; when more do, every node goes back to what it had before. Default 0.',
    { minimum: 0, maximum: 1 },
  ),
  deadlineSeconds: integer(
    'A node that is not there after so long has failed. Default 600; a node that waits for its release does not count.',
    { minimum: 1, maximum: 2_592_000 },
  ),
  pauseSeconds: integer('Time between two groups, to see how the first one fares. Default 0.', {
    minimum: 0,
    maximum: 2_592_000,
  }),
};

/** How changed workers reach the nodes of a service. */
export const serviceRollout: Field = object(
  'Workers that change (their model, template or overrides) are replaced group by group, in the order of spec.placement.groups. Left out: all at once. Needs placement. Shoal’s own.',
  patience,
  'ServiceRollout',
);

/** How a new model reaches the nodes that serve it. */
export const rollout: Field = object(
  'A new model reaches the serving nodes group by group, in the order of spec.placement.groups; without groups they are one. Left out: all at once. Needs hotUpdateEnabled. Shoal’s own.',
  {
    prePull: string(
      'all: every node fetches the model before the first one serves it; group: only those of a group that is due. Default all.',
      { enum: ['all', 'group'] },
    ),
    ...patience,
    hold: string(
      'edge: a node that has the model waits until somebody at the edge releases it (shoal edge release). none: it does not. Default none.',
      { enum: ['none', 'edge'] },
    ),
  },
  'Rollout',
);

export const rolloutStatus: Field = object(
  'The newest rollout of a model.',
  {
    digest: string('sha256 of the model; of a service, of all its edge workers run with.'),
    previous: string('The digest before it; empty for what the job began with.'),
    round: integer('The training round it is of; of a service its generation.'),
    phase: string(
      'Pulling, Updating, Pausing (between two groups), Completed, or RolledBack: too many nodes failed.',
      { enum: ['Pulling', 'Updating', 'Pausing', 'Completed', 'RolledBack'] },
    ),
    group: integer('Position of the group that is due.', { minimum: 0 }),
    since: string('When this phase of this group began.', { format: 'date-time' }),
    message: string('Why it is where it is.'),
    groups: list(
      'How it stands in each group.',
      object(
        'A group.',
        {
          'name!': string('Value of the label; empty without placement.'),
          nodes: integer('Its nodes.', { minimum: 0 }),
          pulled: integer('Have the model.', { minimum: 0 }),
          held: integer('Wait for their release.', { minimum: 0 }),
          updated: integer('Serve it.', { minimum: 0 }),
          failed: integer('Refused it, or were too late.', { minimum: 0 }),
        },
        'RolloutGroup',
      ),
    ),
  },
  'RolloutStatus',
);
