import { JointInference, OnnxEstimator } from '@shoal/lib';
import fastify, { type FastifyInstance } from 'fastify';

/**
 * Somebody's own classification service. Joint inference is the lines with `joint`: where the cloud is and
 * what is hard comes from the environment, and without one the edge answers alone.
 */
export async function classificationService(
  model: string,
  environment: Readonly<Record<string, string | undefined>> = process.env,
): Promise<FastifyInstance> {
  const estimator = new OnnxEstimator({ threads: 1 });
  await estimator.load(model);
  const joint = JointInference.fromEnvironment(estimator, environment);
  const server = fastify();
  server.post<{ Body: { pixels: number[] } }>('/classify', async ({ body }) => {
    const { label, source, hard, score } = await joint.inference(Float32Array.from(body.pixels));
    return { label, source, hard, score };
  });
  server.get('/figures', () => joint.metrics);
  server.addHook('onClose', async () => await joint.close());
  return server;
}
