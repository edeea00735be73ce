import { type FederatedModel, nodePlatform, Participant, socketTransport } from '@shoal/lib';

/** Participants that do no work, in a process of their own: `ADDRESS SIZE FIRST COUNT`. */
const [address = '', size = '1', first = '0', count = '1'] = process.argv.slice(2);

/** Local training that does nothing: what is left is the federation itself. */
function idleModel(values: number): FederatedModel {
  return {
    layout: [{ name: 'w', shape: [values] }],
    size: values,
    samples: 1,
    initial: () => new Float32Array(values),
    // What came back is the model itself: nothing is allocated here.
    train: (vector, task) =>
      Promise.resolve({
        delta: task.evaluateOnly ? new Float32Array() : vector,
        samples: 1,
        metrics: {},
      }),
    close: () => Promise.resolve(),
  };
}

const transport = socketTransport(address);
await Promise.all(
  Array.from({ length: Number(count) }, (_, k) =>
    new Participant(
      { transport, platform: nodePlatform, job: 'bench', participant: `p${Number(first) + k}` },
      idleModel(Number(size)),
    ).run(new AbortController().signal),
  ),
);
