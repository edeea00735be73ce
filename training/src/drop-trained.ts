import { freeNow } from './free-now.ts';
import { letGoOf } from './onnx/let-go.ts';
import type { Plan } from './plan.ts';
import type { TrainingState } from './training-state.ts';

/**
 * Lets go of the file: trained tensors live in the state from now on, and what stays is copied out of the file's
 * bytes where that frees most of them, so that a large model is not held twice.
 *
 * @param isOwn Whether nobody else reads the bytes.
 */
export function dropTrained(plan: Plan, state: TrainingState, isOwn: boolean): void {
  const staying = new Map<ArrayBufferLike, number>();
  for (const tensor of plan.model.graph?.initializer ?? []) {
    const { buffer, length } = tensor.rawData;
    const isTrained = state.has(tensor.name);
    staying.set(buffer, (staying.get(buffer) ?? 0) + (isTrained ? 0 : length));
    if (!isTrained) continue;
    tensor.rawData = new Uint8Array();
    tensor.floatData = [];
  }
  const buffers = [...staying].filter(([b, bytes]) => bytes * 2 < b.byteLength).map(([b]) => b);
  letGoOf(buffers, [plan.model, plan.forward]);
  if (isOwn) for (const buffer of buffers) freeNow(buffer);
}
