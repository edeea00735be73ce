import type { Dataset, Model } from '@shoal/api';
import { ShoalError } from '@shoal/core';
import type { ObjectCache } from '../reconcile/object-cache.ts';

/**
 * The Model of a name in the same namespace.
 *
 * @throws ShoalError `not_found` naming the field that refers to it.
 */
export function requireModel(
  models: ObjectCache,
  namespace: string,
  reference: { name: string; field: string },
): Model {
  const found = models.get(namespace, reference.name);
  if (found) return found as unknown as Model;
  throw missing('Model', namespace, reference);
}

/** The Dataset of a name in the same namespace. @throws ShoalError `not_found`. */
export function requireDataset(
  datasets: ObjectCache,
  namespace: string,
  reference: { name: string; field: string },
): Dataset {
  const found = datasets.get(namespace, reference.name);
  if (found) return found as unknown as Dataset;
  throw missing('Dataset', namespace, reference);
}

const GROWING = ['txt', 'csv', 'jsonl'];

/** A Dataset whose samples arrive over time. @throws ShoalError `not_found`, `invalid_argument`. */
export function requireGrowingDataset(
  datasets: ObjectCache,
  namespace: string,
  reference: { name: string; field: string },
): Dataset {
  const dataset = requireDataset(datasets, namespace, reference);
  const { format } = dataset.spec;
  if (GROWING.includes(format.toLowerCase())) return dataset;
  throw new ShoalError(
    'invalid_argument',
    `${reference.field}: Dataset "${reference.name}" is ${format}, which cannot be cut into rounds; write its samples as ${GROWING.join(', ')}`,
  );
}

function missing(
  kind: string,
  namespace: string,
  reference: { name: string; field: string },
): ShoalError {
  return new ShoalError(
    'not_found',
    `${reference.field}: ${kind} "${reference.name}" does not exist in namespace ${namespace}; create it, or correct the name`,
    { retry: 'backoff' },
  );
}
