import { federatedLearningDigits } from '../federated-learning/digits/example.ts';
import { federatedLearningHeartDisease } from '../federated-learning/heart-disease/example.ts';
import { incrementalLearningDigits } from '../incremental-learning/digits/example.ts';
import { jointInferenceDigits } from '../joint-inference/digits/example.ts';
import { lifelongLearningDriftingDigits } from '../lifelong-learning/drifting-digits/example.ts';
import { lifelongLearningThermalComfort } from '../lifelong-learning/thermal-comfort/example.ts';
import type { Example } from './example.ts';

export type {
  ClusterObject,
  DataKind,
  Example,
  ExampleContext,
  ExampleResult,
  ResultRow,
} from './example.ts';

/** Every example, in the order of the paradigms. */
export const EXAMPLES: readonly Example[] = [
  jointInferenceDigits,
  incrementalLearningDigits,
  federatedLearningDigits,
  federatedLearningHeartDisease,
  lifelongLearningThermalComfort,
  lifelongLearningDriftingDigits,
];
