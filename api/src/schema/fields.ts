import type { StructuralSchema } from '@shoal/core';

/**
 * The small language in which the kinds are written down. One such definition is the source of
 * the TypeScript types, the CRD YAML and the reference page (see `scripts/generate.ts`).
 */
export interface Field extends StructuralSchema {
  /** Name of the TypeScript type generated for this object; objects without one are inlined. */
  readonly typeName?: string;
  readonly properties?: Readonly<Record<string, Field>>;
  readonly additionalProperties?: Field;
  readonly items?: Field;
  /** Stands for a schema that comes from Kubernetes itself. */
  readonly template?: KubernetesType;
}

/** Kubernetes types our kinds embed; see `pod-template.ts` for the TypeScript side. */
export type KubernetesType =
  | 'PodTemplateSpec'
  | 'DeploymentSpec'
  | 'JobSpec'
  | 'HpaMetrics'
  | 'HpaBehavior';

/** Fields by name; a name that ends in `!` is required. */
export type Fields = Readonly<Record<string, Field>>;

export interface PrinterColumn {
  readonly name: string;
  readonly type: 'string' | 'integer' | 'number' | 'boolean' | 'date';
  readonly jsonPath: string;
  readonly description?: string;
  /** Columns with priority > 0 show in `-o wide` only. */
  readonly priority?: number;
}

export interface KindDefinition {
  readonly kind: string;
  readonly plural: string;
  readonly singular: string;
  readonly shortNames: readonly string[];
  readonly description: string;
  readonly spec: Field;
  readonly status: Field;
  readonly columns: readonly PrinterColumn[];
}

type Limits = Pick<
  StructuralSchema,
  | 'minimum'
  | 'maximum'
  | 'exclusiveMinimum'
  | 'default'
  | 'format'
  | 'enum'
  | 'pattern'
  | 'minLength'
  | 'minItems'
  | 'maxItems'
>;

export function string(description: string, limits: Limits = {}): Field {
  return { type: 'string', description, ...limits };
}

export function integer(description: string, limits: Limits = {}): Field {
  return { type: 'integer', format: 'int64', description, ...limits };
}

export function number(description: string, limits: Limits = {}): Field {
  return { type: 'number', description, ...limits };
}

export function boolean(description: string, limits: Limits = {}): Field {
  return { type: 'boolean', description, ...limits };
}

export function time(description: string): Field {
  return { type: 'string', format: 'date-time', description };
}

export function list(description: string, items: Field, limits: Limits = {}): Field {
  return { type: 'array', description, items, ...limits };
}

export function object(description: string, fields: Fields, typeName?: string): Field {
  const names = Object.keys(fields);
  const required = names.filter((n) => n.endsWith('!')).map((n) => n.slice(0, -1));
  return {
    type: 'object',
    description,
    properties: Object.fromEntries(
      Object.entries(fields).map(([n, f]) => [n.replace(/!$/, ''), f]),
    ),
    ...(required.length > 0 ? { required } : {}),
    ...(typeName === undefined ? {} : { typeName }),
  };
}

export function kubernetes(template: KubernetesType, description: string): Field {
  const type = template === 'HpaMetrics' ? 'array' : 'object';
  return { type, template, description };
}
