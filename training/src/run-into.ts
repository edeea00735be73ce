import * as ort from 'onnxruntime-node';

type Fetches = Readonly<Record<string, ort.Tensor | null>>;

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
  if (ort.env.versions.web === undefined) return await session.run(feeds, fetches);
  const results = await session.run(feeds, Object.keys(fetches));
  for (const [name, wanted] of Object.entries(fetches)) {
    const made = results[name];
    if (wanted && made) (wanted.data as Float32Array).set(made.data as Float32Array);
  }
  return results;
}
