import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { seededRandom } from '@shoal/core';
import { dense, sequential } from '@shoal/training';
import { expect, test } from 'vitest';
import { classificationService } from './server.ts';

test('somebody’s service answers without any cluster, and counts', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'shoal-service-'));
  const model = join(dir, 'little.onnx');
  writeFileSync(model, sequential({ input: [3], layers: [dense(2)], random: seededRandom(1) }));
  const server = await classificationService(model, {
    HEM_NAME: 'Margin',
    HEM_PARAMETERS: '[{"key": "threshold_margin", "value": "1"}]',
  });
  const response = await server.inject({
    method: 'POST',
    url: '/classify',
    payload: { pixels: [1, 2, 3] },
  });
  expect(response.json()).toMatchObject({ source: 'edge', hard: true });
  expect((await server.inject('/figures')).json()).toMatchObject({
    inferenceNumber: 1,
    hardExampleNumber: 1,
    uploadNumber: 0,
  });
  await server.close();
  rmSync(dir, { recursive: true });
});
