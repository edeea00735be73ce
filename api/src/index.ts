export { appendCondition, bounded } from './conditions.ts';
export { allCrds, type CustomResourceDefinition, objectSchema, toCrd, toStructural } from './crd.ts';
export { API_VERSION, GROUP, KINDS, VERSION } from './kinds/catalogue.ts';
export type { Field, KindDefinition, PrinterColumn } from './schema/fields.ts';
export type { KubernetesObject, ObjectMeta, OwnerReference } from './schema/metadata.ts';
export type { Container, EnvVar, PodSpec, PodTemplate, Volume, VolumeMount } from './schema/pod-template.ts';
export { MAX_CONDITIONS, OPERATORS, STAGE_CONDITIONS, STAGES } from './schema/shared.ts';
