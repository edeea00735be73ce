import type { JsonObject } from '@shoal/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ClusterFixture, type Live } from './cluster-fixture.ts';

let c: ClusterFixture;
beforeAll(async () => {
  c = await ClusterFixture.start();
}, 60_000);
afterAll(async () => await c.stop());

function job(name: string, script: string, spec: object = {}): JsonObject {
  return {
    apiVersion: 'batch/v1',
    kind: 'Job',
    metadata: { name },
    spec: {
      ...spec,
      template: {
        spec: {
          restartPolicy: 'Never',
          containers: [{ name: 'work', image: 'any', command: ['node', '-e', script] }],
        },
      },
    },
  };
}

function holds(object: Live | undefined, type: string): boolean {
  return object?.status?.conditions?.some((x) => x.type === type && x.status === 'True') ?? false;
}

describe('a Job', () => {
  it('runs as many pods as it asks for, and not one more when finished ones are deleted', async () => {
    await c.apply(job('many', '', { completions: 3, parallelism: 1 }));
    const seen = new Set<string>();
    const done = await c.until('three pods that succeeded', async () => {
      for (const p of await c.pods('many-')) {
        seen.add(p.metadata.name);
        if (p.status?.phase === 'Succeeded')
          await c.resources.remove('Pod', 'default', p.metadata.name);
      }
      const found = await c.get('Job', 'many');
      return holds(found, 'Complete') && found;
    });
    expect(done.status).toMatchObject({ succeeded: 3, active: 0 });
    expect(seen.size).toBe(3);
  }, 60_000);

  it('fails beyond its limit, with the reason', async () => {
    await c.apply(job('bad', 'process.exit(3)', { backoffLimit: 0 }));
    const failed = await c.until('the job to fail', async () =>
      (await c.get('Job', 'bad'))?.status?.conditions?.find((x) => x.type === 'Failed'),
    );
    expect(failed.reason).toBe('BackoffLimitExceeded');
  }, 60_000);

  it('ends at its deadline and takes its pods along; goes by itself when told to', async () => {
    const spec = { activeDeadlineSeconds: 2, ttlSecondsAfterFinished: 1 };
    await c.apply(job('slow', 'setTimeout(() => {}, 60000)', spec));
    const failed = await c.until('the deadline', async () =>
      (await c.get('Job', 'slow'))?.status?.conditions?.find((x) => x.type === 'Failed'),
    );
    expect(failed.reason).toBe('DeadlineExceeded');
    await expect.poll(async () => await c.get('Job', 'slow'), { timeout: 20_000 }).toBeUndefined();
    await expect.poll(async () => (await c.pods('slow-')).length, { timeout: 20_000 }).toBe(0);
  }, 60_000);

  it('is refused without a restart policy that ends', async () => {
    const wrong = job('wrong', '');
    const { spec } = wrong as { spec: { template: { spec: { restartPolicy?: string } } } };
    delete spec.template.spec.restartPolicy;
    await expect(c.apply(wrong)).rejects.toThrow(/restartPolicy/);
  });
});
