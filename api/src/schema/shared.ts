import { type Field, integer, kubernetes, list, number, object, string, time } from './fields.ts';

/** A reference to an object of the same namespace by name. */
export function reference(kind: 'Model' | 'Dataset'): Field {
  return object(
    `A ${kind} of the same namespace, by name.`,
    {
      'name!': string(`Name of the ${kind}.`, { minLength: 1 }),
    },
    `${kind}Reference`,
  );
}

export const parameter: Field = object(
  'One parameter; values are strings.',
  {
    'key!': string('Name of the parameter.'),
    'value!': string('Its value, written as a string.'),
  },
  'Parameter',
);

/** Which samples count as hard, and the algorithm's parameters. */
export const hardExampleMining: Field = object(
  'How hard examples are recognised.',
  {
    'name!': string('Name of the algorithm, for example CrossEntropy, IBT or Threshold.', {
      minLength: 1,
    }),
    parameters: list('Parameters of the algorithm.', parameter),
  },
  'HardExampleMining',
);

/** Horizontal scaling of one worker, passed on to an autoscaling/v2 object. */
export const hpa: Field = object(
  'Horizontal pod autoscaling of this worker.',
  {
    minReplicas: { ...integer('Fewest replicas.', { minimum: 0 }), format: 'int32' },
    'maxReplicas!': { ...integer('Most replicas.', { minimum: 1 }), format: 'int32' },
    metrics: kubernetes('HpaMetrics', 'Metrics of autoscaling/v2.'),
    behavior: kubernetes('HpaBehavior', 'Scaling behaviour of autoscaling/v2.'),
  },
  'Autoscaling',
);

export const template: Field = kubernetes(
  'PodTemplateSpec',
  'The pod of this worker. Labels, annotations and environment are kept as written.',
);

/** A worker that has only a pod template. */
export const templateOnly: Field = object('A worker.', { 'template!': template }, 'TemplateWorker');

export const OPERATORS = [
  'gt',
  '>',
  'ge',
  '>=',
  'eq',
  '=',
  '==',
  'ne',
  '!=',
  'le',
  '<=',
  'lt',
  '<',
] as const;

const clock = { pattern: '^([01][0-9]|2[0-3]):[0-5][0-9]$' };

/** One comparison of a trigger. */
const triggerCondition = (description: string): Field =>
  object(
    description,
    {
      'operator!': string('Comparison.', { enum: [...OPERATORS] }),
      'threshold!': number('Right-hand side of the comparison.'),
      'metric!': string(
        'num_of_samples or drift (alarms since the last training) for training; for deployment a metric, metric[i], or metric_delta (new − old).',
      ),
    },
    'TriggerCondition',
  );

/** When a stage may begin. */
export const trigger: Field = object(
  'When this stage may begin: the condition must hold, with all of `all` and one of `any`, inside the timer window if one is given.',
  {
    checkPeriodSeconds: integer('How often the condition is checked, in seconds.', {
      minimum: 1,
      default: 60,
    }),
    timer: object(
      'Daily window in the node’s local time; start > end wraps midnight.',
      {
        type: string('Kept for old manifests; the window is always daily.', { enum: ['daily'] }),
        'start!': string('HH:MM', clock),
        'end!': string('HH:MM', clock),
      },
      'TriggerTimer',
    ),
    'condition!': triggerCondition('metric <operator> threshold'),
    all: list(
      'Conditions that must hold as well: guards, such as recall_delta >= -0.02.',
      triggerCondition('metric <operator> threshold'),
    ),
    any: list(
      'Conditions of which at least one must hold as well.',
      triggerCondition('metric <operator> threshold'),
    ),
  },
  'Trigger',
);

const conditionFields = {
  'type!': string('What the condition is about.'),
  'status!': string('True, False or Unknown.', { enum: ['True', 'False', 'Unknown'] }),
  lastHeartbeatTime: time('When the condition was last seen.'),
  lastTransitionTime: time('When the condition last changed.'),
  lastProbeTime: time('When the condition was last probed.'),
  reason: string('One word, in CamelCase.'),
  message: string('A sentence for people.'),
  data: string('Details as JSON text.'),
};

/** Conditions are bounded: only the newest this many are kept. */
export const MAX_CONDITIONS = 50;

export const conditions: Field = list(
  'What happened, newest last; the last 50 are kept.',
  object('One condition.', conditionFields, 'Condition'),
  { maxItems: MAX_CONDITIONS },
);

export const STAGES = ['Train', 'Eval', 'Deploy'] as const;
export const STAGE_CONDITIONS = [
  'Waiting',
  'Ready',
  'Starting',
  'Running',
  'Completed',
  'Failed',
] as const;

export const stageConditions: Field = list(
  'The stage machine’s log, newest last; the last 50 are kept.',
  object(
    'One step of the stage machine.',
    {
      ...conditionFields,
      'type!': string('State of the stage.', { enum: [...STAGE_CONDITIONS] }),
      'stage!': string('Stage.', { enum: [...STAGES] }),
      data: string('Inputs and outputs of the stage, as JSON text.'),
    },
    'StageCondition',
  ),
  { maxItems: MAX_CONDITIONS },
);

export const metrics: Field = list(
  'Figures reported by the workers.',
  object('One figure.', { 'key!': string('Name.'), 'value!': string('Value, as text.') }, 'Metric'),
);

const count = (what: string): Field => ({ ...integer(what, { minimum: 0 }), format: 'int32' });

/** Counters and times shared by jobs that run pods to completion. */
export const jobStatus: Record<string, Field> = {
  startTime: time('When the job was first seen.'),
  completionTime: time('When the job ended.'),
  active: count('Workers that are running.'),
  succeeded: count('Workers that ended well.'),
  failed: count('Workers that failed.'),
  phase: string('Pending, Running, Succeeded or Failed.'),
};

/** Counters and times shared by services. */
export const serviceStatus: Record<string, Field> = {
  startTime: time('When the service was first seen.'),
  active: count('Workers that are available.'),
  failed: count('Workers that are not.'),
  metrics,
};

export const observedGeneration: Field = integer(
  'The generation of spec that this status is about.',
);
