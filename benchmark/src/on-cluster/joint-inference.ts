import { ShoalError } from '@shoal/core';
import { type Estimator, type JointInferenceResult, type Samples, slice } from '@shoal/lib';
import { textOf } from '../config/config-node.ts';
import { sampleBytes } from '../paradigms/case-context.ts';
import { ORACLE } from '../paradigms/names.ts';
import type { Observations } from '../paradigms/observations.ts';
import { type ClusterCase, container, hasAddress, object, until } from './access.ts';

const BATCH = 10;

/** Trains both models here and puts them where their workers look. */
async function putModels(c: ClusterCase): Promise<void> {
  const { access, context, data, name } = c;
  for (const [slot, node] of [
    ['edgemodel', access.edgeNodes[0] ?? access.cloudNode],
    ['cloudmodel', access.cloudNode],
  ] as const) {
    const model = await context.create<Estimator>(slot);
    if (data.train.size > 0) await model.train(data.train, { signal: context.signal });
    await model.save(access.nodePath(node, `/bench/${name}/${slot}.onnx`));
    await model.close();
  }
}

function worker(c: ClusterCase, file: string, port: number): object {
  return container(file, c, {
    ports: [{ containerPort: port }],
    readinessProbe: { httpGet: { path: '/healthz', port }, periodSeconds: 1 },
  });
}

function objectsOf(c: ClusterCase): object[] {
  const { access, context, name } = c;
  const choice = context.choice('hard_example_mining');
  const parameters = Object.entries(choice?.hyperparameters ?? {}).map(([key, value]) => ({
    key,
    value: textOf(value),
  }));
  const model = (slot: string): object =>
    object('Model', `${name}-${slot}`, { url: `/bench/${name}/${slot}.onnx`, format: 'onnx' });
  const labels = {
    'jointinferenceservice.sedna.io/name': name,
    'jointinferenceservice.sedna.io/worker-type': 'edge',
  };
  return [
    model('edgemodel'),
    model('cloudmodel'),
    object('JointInferenceService', name, {
      edgeWorker: {
        model: { name: `${name}-edgemodel` },
        hardExampleMining: { name: choice?.name ?? 'CrossEntropy', parameters },
        template: {
          spec: {
            nodeName: access.edgeNodes[0] ?? access.cloudNode,
            containers: [worker(c, 'edge.ts', 8080)],
          },
        },
      },
      cloudWorker: {
        model: { name: `${name}-cloudmodel` },
        template: {
          spec: { nodeName: access.cloudNode, containers: [worker(c, 'cloud.ts', 5000)] },
        },
      },
    }),
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name },
      spec: { selector: labels, ports: [{ name: 'http', port: 80, targetPort: 8080 }] },
    },
  ];
}

async function ask(
  url: string,
  samples: Samples,
  signal: AbortSignal,
): Promise<JointInferenceResult[]> {
  const length = samples.inputs.length / samples.size;
  const data = Array.from({ length: samples.size }, (_, i) =>
    Array.from(samples.inputs.subarray(i * length, (i + 1) * length)),
  );
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ data }),
    signal: AbortSignal.any([signal, AbortSignal.timeout(60_000)]),
  });
  if (!response.ok)
    throw new ShoalError(
      'unavailable',
      `${url} answers HTTP ${response.status}: ${(await response.text()).slice(0, 300)}`,
    );
  return ((await response.json()) as { result: JointInferenceResult[] }).result;
}

/** A JointInferenceService; its edge worker is asked about the held-out samples over HTTP. */
export async function jointInferenceOnCluster(c: ClusterCase): Promise<Observations> {
  const { access, context, data, name } = c;
  const choice = context.choice('hard_example_mining');
  if (choice?.url !== undefined || choice?.name === ORACLE)
    throw new ShoalError(
      'unsupported',
      `hard example mining "${choice?.name}" is none a JointInferenceService can name; it runs in processes only`,
    );
  if (context.case.testEnv.miningMode !== 'inference-then-mining')
    throw new ShoalError('unsupported', 'mining-then-inference runs in processes only');
  await putModels(c);
  await access.apply(objectsOf(c));
  try {
    await until(c, { kind: 'JointInferenceService', name, what: 'Running' }, ({ status }) => {
      const { conditions } = (status ?? {}) as { conditions?: { type: string }[] };
      return conditions?.at(-1)?.type === 'Running';
    });
    await until(c, { kind: 'Endpoints', name, what: 'a ready worker' }, hasAddress);
    const service = await access.get('Service', name);
    const { clusterIP = '' } = (service?.spec ?? {}) as { clusterIP?: string };
    const url = `http://${clusterIP}/predict`;
    const answers: JointInferenceResult[] = [];
    for (let at = 0; at < data.test.size; at += BATCH) {
      answers.push(...(await ask(url, slice(data.test, at, at + BATCH), context.signal)));
      context.progress(at / data.test.size, 'asking');
    }
    const uploads = answers.filter((a) => a.source === 'cloud').length;
    const classes = answers[0]?.probabilities.length ?? 0;
    return {
      test: {
        labels: Int32Array.from(data.test.labels, Number),
        predicted: Int32Array.from(answers, (a) => a.label),
        classes,
      },
      inferences: answers.length,
      uploads,
      bytesUp: uploads * sampleBytes(data.test),
      bytesDown: uploads * classes * 4,
    };
  } finally {
    await access.remove('JointInferenceService', name);
    await access.remove('Service', name);
    for (const slot of ['edgemodel', 'cloudmodel']) await access.remove('Model', `${name}-${slot}`);
  }
}
