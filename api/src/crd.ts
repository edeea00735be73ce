import type { StructuralSchema } from '@shoal/core';
import { GROUP, KINDS, OWN_KINDS, VERSION } from './kinds/catalogue.ts';
import type { Field, KindDefinition, KubernetesType } from './schema/fields.ts';
import kubernetesTypes from './schema/kubernetes-generated.json' with { type: 'json' };

const templates: Readonly<Record<KubernetesType, StructuralSchema>> = kubernetesTypes as Record<
  KubernetesType,
  StructuralSchema
>;

function mapValues<T, U>(
  record: Readonly<Record<string, T>>,
  f: (value: T) => U,
): Record<string, U> {
  return Object.fromEntries(Object.entries(record).map(([k, v]) => [k, f(v)]));
}

/** A field as a structural schema: our annotations removed, Kubernetes types put in. */
export function toStructural(field: Field): StructuralSchema {
  const { typeName: _typeName, template, properties, additionalProperties, items, ...rest } = field;
  const own: StructuralSchema = {
    ...rest,
    ...(properties ? { properties: mapValues(properties, toStructural) } : {}),
    ...(additionalProperties ? { additionalProperties: toStructural(additionalProperties) } : {}),
    ...(items ? { items: toStructural(items) } : {}),
  };
  if (!template) return own;
  const base = templates[template];
  return {
    ...base,
    ...own,
    ...(base.properties ? { properties: { ...base.properties, ...own.properties } } : {}),
    ...(base.required || own.required
      ? { required: [...(base.required ?? []), ...(own.required ?? [])] }
      : {}),
  };
}

/** The schema of a whole object of this kind. */
export function objectSchema(kind: KindDefinition): StructuralSchema {
  return {
    type: 'object',
    description: kind.description,
    properties: {
      apiVersion: { type: 'string', description: 'sedna.io/v1alpha1' },
      kind: { type: 'string', description: kind.kind },
      metadata: { type: 'object' },
      spec: toStructural(kind.spec),
      status: toStructural(kind.status),
    },
    required: ['spec'],
  };
}

export interface CustomResourceDefinition {
  readonly apiVersion: 'apiextensions.k8s.io/v1';
  readonly kind: 'CustomResourceDefinition';
  readonly metadata: { readonly name: string };
  readonly spec: Readonly<Record<string, unknown>>;
}

/** The CustomResourceDefinition of a kind. */
export function toCrd(kind: KindDefinition): CustomResourceDefinition {
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `${kind.plural}.${GROUP}` },
    spec: {
      group: GROUP,
      scope: 'Namespaced',
      names: {
        kind: kind.kind,
        listKind: `${kind.kind}List`,
        plural: kind.plural,
        singular: kind.singular,
        shortNames: kind.shortNames,
        categories: ['shoal'],
      },
      versions: [
        {
          name: VERSION,
          served: true,
          storage: true,
          subresources: { status: {} },
          additionalPrinterColumns: kind.columns,
          schema: { openAPIV3Schema: objectSchema(kind) },
        },
      ],
    },
  };
}

/** All CustomResourceDefinitions, in the order of the catalogue, our own last. */
export function allCrds(): CustomResourceDefinition[] {
  return [...KINDS, ...OWN_KINDS].map(toCrd);
}
