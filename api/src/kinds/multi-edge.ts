import {
  boolean,
  type Field,
  type KindDefinition,
  kubernetes,
  list,
  object,
} from '../schema/fields.ts';
import { conditions, jobStatus, reference, serviceStatus, templateOnly } from '../schema/shared.ts';

const kafkaSupport = boolean('Exchange results over Kafka.', { default: false });
const inDeployment = kubernetes('DeploymentSpec', 'A Deployment’s spec.');
const inJob = kubernetes('JobSpec', 'A Job’s spec.');

/** A spec of ours merged with the fields of a Kubernetes type, as Sedna inlines them. */
function inlined(base: Field, own: Field): Field {
  return { ...own, ...(base.template ? { template: base.template } : {}) };
}

const serviceColumns: KindDefinition['columns'] = [
  { name: 'Status', type: 'string', jsonPath: '.status.conditions[-1:].type' },
  { name: 'Active', type: 'integer', jsonPath: '.status.active' },
  { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' },
];
const jobColumns: KindDefinition['columns'] = [
  { name: 'Phase', type: 'string', jsonPath: '.status.phase' },
  { name: 'Active', type: 'integer', jsonPath: '.status.active' },
  { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' },
];

export const featureExtractionService: KindDefinition = {
  kind: 'FeatureExtractionService',
  plural: 'featureextractionservices',
  singular: 'featureextractionservice',
  shortNames: ['fe'],
  description: 'Turns detections into features for several edges.',
  spec: inlined(
    inDeployment,
    object(
      'Model and Deployment.',
      { kafkaSupport, 'model!': reference('Model') },
      'FeatureExtractionServiceSpec',
    ),
  ),
  status: object(
    'State of the service.',
    { conditions, ...serviceStatus },
    'FeatureExtractionServiceStatus',
  ),
  columns: serviceColumns,
};

export const reidJob: KindDefinition = {
  kind: 'ReidJob',
  plural: 'reidjobs',
  singular: 'reidjob',
  shortNames: ['reid'],
  description: 'Re-identifies targets across cameras.',
  spec: inlined(inJob, object('The Job.', { kafkaSupport }, 'ReidJobSpec')),
  status: object('State of the job.', { conditions, ...jobStatus }, 'ReidJobStatus'),
  columns: jobColumns,
};

export const videoAnalyticsJob: KindDefinition = {
  kind: 'VideoAnalyticsJob',
  plural: 'videoanalyticsjobs',
  singular: 'videoanalyticsjob',
  shortNames: ['va'],
  description: 'Detects and tracks objects in video.',
  spec: inlined(
    inJob,
    object(
      'Model and Job.',
      { kafkaSupport, 'model!': reference('Model') },
      'VideoAnalyticsJobSpec',
    ),
  ),
  status: object('State of the job.', { conditions, ...jobStatus }, 'VideoAnalyticsJobStatus'),
  columns: jobColumns,
};

export const objectSearchService: KindDefinition = {
  kind: 'ObjectSearchService',
  plural: 'objectsearchservices',
  singular: 'objectsearchservice',
  shortNames: ['objs'],
  description: 'Searches for an object across several edges.',
  spec: object(
    'The workers.',
    {
      'userWorker!': templateOnly,
      'trackingWorkers!': list('Workers that track.', templateOnly),
      'reidWorkers!': inDeployment,
    },
    'ObjectSearchServiceSpec',
  ),
  status: object(
    'State of the service.',
    { conditions, ...serviceStatus },
    'ObjectSearchServiceStatus',
  ),
  columns: serviceColumns,
};

export const objectTrackingService: KindDefinition = {
  kind: 'ObjectTrackingService',
  plural: 'objecttrackingservices',
  singular: 'objecttrackingservice',
  shortNames: ['objt'],
  description: 'Tracks an object across several edges.',
  spec: object(
    'The workers.',
    {
      'trackingWorkers!': list('Workers that track.', templateOnly),
      'reidWorkers!': inDeployment,
    },
    'ObjectTrackingServiceSpec',
  ),
  status: object(
    'State of the service.',
    { conditions, ...serviceStatus },
    'ObjectTrackingServiceStatus',
  ),
  columns: serviceColumns,
};
