import { type ApiObject, digObject } from '../object.ts';
import { isEmptySelector, matchesSelector } from '../server/selectors.ts';
import { controllerOf } from '../server/verbs.ts';
import { type ControllerContext, ignoreNotFound, type Kinds } from './control-loop.ts';

/** The reference by which an object is controlled by its owner. */
export function controllerReference(owner: ApiObject): {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller: true;
  blockOwnerDeletion: true;
} {
  const { name, uid = '' } = owner.metadata;
  return {
    apiVersion: owner.apiVersion,
    kind: owner.kind,
    name,
    uid,
    controller: true,
    blockOwnerDeletion: true,
  };
}

/** True when an owner's selector takes in an object. */
export function selects(owner: ApiObject, object: ApiObject): boolean {
  const selector = digObject(owner, 'spec', 'selector');
  return !isEmptySelector(selector) && matchesSelector(selector, object.metadata.labels ?? {});
}

/**
 * The objects an owner controls: those that it selects and nobody controls are adopted, those that
 * it controls and selects no longer are released (as Kubernetes' controllers do).
 *
 * @returns The owner's objects as they are now.
 */
export async function claim(
  plural: 'pods' | 'replicasets',
  owner: ApiObject,
  ports: { readonly context: ControllerContext; readonly kinds: Kinds },
): Promise<ApiObject[]> {
  const { context, kinds } = ports;
  const mine: ApiObject[] = [];
  for (const object of kinds.list(plural, owner.metadata.namespace ?? '')) {
    const controller = controllerOf(object);
    const fits = selects(owner, object);
    if (controller ? controller.uid !== owner.metadata.uid : !fits) continue;
    if (Boolean(controller) === fits) mine.push(object);
    else if (!object.metadata.deletionTimestamp) {
      const { namespace = '', name } = object.metadata;
      const references = (o: ApiObject): unknown => {
        // Looked at again as it is now: somebody may have been faster.
        if (controllerOf(o)?.uid !== controller?.uid || selects(owner, o) !== fits)
          return o.metadata.ownerReferences;
        const others = (o.metadata.ownerReferences ?? []).filter((r) => r.controller !== true);
        return fits ? [...others, controllerReference(owner)] : others;
      };
      const changed = await ignoreNotFound(
        context.verbs.modify(kinds.target(plural, namespace, name), (o) => ({
          ...o,
          metadata: { ...o.metadata, ownerReferences: references(o) },
        })),
      );
      if (changed && controllerOf(changed.object)?.uid === owner.metadata.uid)
        mine.push(changed.object);
    }
  }
  return mine;
}
