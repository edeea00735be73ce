import { type KindDefinition, object, string } from '../schema/fields.ts';
import { placement, placementStatus, rolloutStatus, serviceRollout } from '../schema/placement.ts';
import {
  conditions,
  hardExampleMining,
  hpa,
  observedGeneration,
  reference,
  serviceStatus,
  template,
} from '../schema/shared.ts';

export const jointInferenceService: KindDefinition = {
  kind: 'JointInferenceService',
  plural: 'jointinferenceservices',
  singular: 'jointinferenceservice',
  shortNames: ['ji'],
  description: 'A small model at the edge and a big one in the cloud; hard examples go up.',
  spec: object(
    'The two workers.',
    {
      'edgeWorker!': object(
        'The worker at the edge.',
        {
          'model!': reference('Model'),
          'hardExampleMining!': hardExampleMining,
          'template!': template,
          hpa,
          rollout: serviceRollout,
        },
        'EdgeWorker',
      ),
      cloudAccess: string(
        'How workers at the edge reach the one in the cloud. direct: by the address of its Service. relay: through the one connection their node has to the cloud, for nodes that can reach nothing else. Default direct. Shoal’s own.',
        { enum: ['direct', 'relay'] },
      ),
      placement,
      'cloudWorker!': object(
        'The worker in the cloud.',
        {
          'model!': reference('Model'),
          'template!': template,
          hpa,
        },
        'CloudWorker',
      ),
    },
    'JointInferenceServiceSpec',
  ),
  status: object(
    'State of the service.',
    {
      conditions,
      ...serviceStatus,
      placement: placementStatus,
      rollout: rolloutStatus,
      observedGeneration,
    },
    'JointInferenceServiceStatus',
  ),
  columns: [
    { name: 'Status', type: 'string', jsonPath: '.status.conditions[-1:].type' },
    { name: 'Active', type: 'integer', jsonPath: '.status.active' },
    {
      name: 'Inferences',
      type: 'string',
      jsonPath: '.status.metrics[?(@.key=="inferenceNumber")].value',
    },
    {
      name: 'Upload',
      type: 'string',
      jsonPath: '.status.metrics[?(@.key=="uploadCloudRatio")].value',
    },
    { name: 'Reason', type: 'string', jsonPath: '.status.conditions[-1:].reason', priority: 1 },
    { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' },
  ],
};
