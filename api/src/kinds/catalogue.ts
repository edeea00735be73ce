import type { KindDefinition } from '../schema/fields.ts';
import { dataset } from './dataset.ts';
import { federatedLearningJob } from './federated-learning-job.ts';
import { incrementalLearningJob } from './incremental-learning-job.ts';
import { jointInferenceService } from './joint-inference-service.ts';
import { lifelongLearningJob } from './lifelong-learning-job.ts';
import { model } from './model.ts';
import {
  featureExtractionService,
  objectSearchService,
  objectTrackingService,
  reidJob,
  videoAnalyticsJob,
} from './multi-edge.ts';

import { nodeObject, nodeRecord } from './node-mail.ts';

export const GROUP = 'sedna.io';
export const VERSION = 'v1alpha1';
export const API_VERSION = 'sedna.io/v1alpha1';

/** Every kind, in the order of the contract. */
export const KINDS: readonly KindDefinition[] = [
  dataset,
  model,
  jointInferenceService,
  incrementalLearningJob,
  federatedLearningJob,
  lifelongLearningJob,
  featureExtractionService,
  reidJob,
  videoAnalyticsJob,
  objectSearchService,
  objectTrackingService,
];

/** Kinds of our own that no user writes. */
export const OWN_KINDS: readonly KindDefinition[] = [nodeObject, nodeRecord];
