import { writeFileSync } from 'node:fs';
import { ShoalError } from '@shoal/core';
import { argMax } from '@shoal/lib';
import type { ModelStage } from '@shoal/training';
import { asked, observedOf, trainedAndCut } from '../paradigms/multi-edge.ts';
import type { Observations } from '../paradigms/observations.ts';
import { onward } from '../paradigms/pipeline-stage.ts';
import {
  CASE_FOLDER,
  type ClusterCase,
  container,
  edgeOf,
  hasAddress,
  podOf,
  removeAll,
  until,
} from './access.ts';
import { decodeValues, encodeValues } from './stage-values.ts';

const PORT = 8080;

function nameOf({ name }: ClusterCase, stage: number): string {
  return `${name}-s${stage}`;
}

/** A Deployment of one pod for a stage, and the Service the stage before it asks. */
function objectsOf(
  c: ClusterCase,
  stages: readonly ModelStage[],
  at: { readonly stage: number; readonly next: string },
): object[] {
  const { stage: s, next } = at;
  const name = nameOf(c, s);
  const stage = stages[s];
  const sends = next === '' ? (stage?.outputs ?? []).slice(0, 1) : onward(stages, s + 1);
  const worker = container('stage.ts', c, {
    ports: [{ containerPort: PORT }],
    readinessProbe: { httpGet: { path: '/healthz', port: PORT }, periodSeconds: 1 },
    env: [
      { name: 'STAGE_MODEL', value: `${CASE_FOLDER}/stage-${s}.onnx` },
      { name: 'STAGE_INPUTS', value: JSON.stringify(stage?.inputs) },
      { name: 'STAGE_OUTPUTS', value: JSON.stringify(stage?.outputs) },
      { name: 'STAGE_SENDS', value: JSON.stringify(sends) },
      { name: 'NEXT_URL', value: next },
      { name: 'BIND_PORT', value: String(PORT) },
      { name: 'BIND_HOST', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } },
    ],
  });
  const labels = { 'shoal.dev/bench-stage': name };
  const template = { metadata: { labels }, spec: podOf(c, edgeOf(c, s), worker) };
  return [
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name },
      spec: { selector: labels, ports: [{ name: 'http', port: 80, targetPort: PORT }] },
    },
    {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name },
      spec: { replicas: 1, selector: { matchLabels: labels }, template },
    },
  ];
}

async function addressOf(c: ClusterCase, stage: number): Promise<string> {
  const name = nameOf(c, stage);
  await until(c, { kind: 'Endpoints', name, what: 'a ready stage' }, hasAddress);
  const service = await c.access.get('Service', name);
  const { clusterIP = '' } = (service?.spec ?? {}) as { clusterIP?: string };
  return `http://${clusterIP}/run`;
}

/** Asks the first stage about every held-out sample, one after the other. */
async function askAll(
  c: ClusterCase,
  stages: readonly ModelStage[],
  url: string,
): Promise<{ predicted: Int32Array; classes: number; bytesUp: number }> {
  const { context, data } = c;
  const predicted = new Int32Array(data.test.size);
  const sums = { classes: 0, bytesUp: 0 };
  for (let i = 0; i < data.test.size; i++) {
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'Content-Type': 'application/octet-stream' },
      body: new Uint8Array(encodeValues(asked(stages[0]?.inputs[0] ?? '', data.test, i))),
      signal: AbortSignal.any([context.signal, AbortSignal.timeout(60_000)]),
    });
    const message = Buffer.from(await response.arrayBuffer());
    if (!response.ok)
      throw new ShoalError(
        'unavailable',
        `the pipeline answers HTTP ${response.status}: ${message}`,
      );
    const [answer] = decodeValues(message).values();
    const logits = answer?.data as Float32Array;
    sums.classes = logits.length;
    sums.bytesUp += Number(response.headers.get('x-bytes-on') ?? 0);
    predicted[i] = argMax(logits, 0, logits.length);
    if (i % 20 === 0) context.progress(0.8 + (0.2 * i) / data.test.size, 'asking');
  }
  return { predicted, ...sums };
}

/**
 * A pod for every stage, each on an edge of its own as far as there are some; a stage asks the next one
 * over its Service. Bytes are counted where they are sent.
 */
export async function multiEdgeOnCluster(c: ClusterCase): Promise<Observations> {
  const { access, context, name } = c;
  const { model, stages } = await trainedAndCut(context);
  const made = [...stages.keys()].flatMap((s) => [
    ['Deployment', nameOf(c, s)] as const,
    ['Service', nameOf(c, s)] as const,
  ]);
  try {
    await removeAll(c, made);
    for (const [s, stage] of stages.entries())
      writeFileSync(access.nodePath(edgeOf(c, s), `/bench/${name}/stage-${s}.onnx`), stage.model);
    // The last one first: a stage must know where the next one is.
    let url = '';
    for (const stage of [...stages.keys()].toReversed()) {
      await access.apply(objectsOf(c, stages, { stage, next: url }));
      url = await addressOf(c, stage);
    }
    return await observedOf(context, { model, stages }, await askAll(c, stages, url));
  } finally {
    await removeAll(c, made);
    await model.close();
  }
}
