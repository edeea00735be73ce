import * as ort from 'onnxruntime-node';
import { freeNow } from './free-now.ts';

type Fetches = Readonly<Record<string, ort.Tensor | null>>;

/**
 * Frees the copy that the runtime for Node.js makes of every result (as of onnxruntime-node 1.30), even of one that
 * it has written into the tensor it was given.
 */
function letGo(result: ort.Tensor | undefined, wanted: ort.Tensor): void {
  if (!(result?.data instanceof Float32Array) || !(wanted.data instanceof Float32Array)) return;
  if (result.data.buffer !== wanted.data.buffer) freeNow(result.data.buffer);
}

/**
 * Runs a session, with results written into the tensors given for them (null: a new one).
 *
 * The runtime for browsers leaves the tensors it is given as they were (as of onnxruntime-web 1.30): it
 * gets none, and what it made is copied.
 */
export async function runInto(
  session: ort.InferenceSession,
  feeds: Readonly<Record<string, ort.Tensor>>,
  fetches: Fetches,
): Promise<ort.InferenceSession.OnnxValueMapType> {
  if (ort.env.versions.web === undefined) {
    const results = await session.run(feeds, fetches);
    for (const [name, wanted] of Object.entries(fetches)) if (wanted) letGo(results[name], wanted);
    return results;
  }
  const results = await session.run(feeds, Object.keys(fetches));
  for (const [name, wanted] of Object.entries(fetches)) {
    const made = results[name];
    if (wanted && made) (wanted.data as Float32Array).set(made.data as Float32Array);
  }
  return results;
}
