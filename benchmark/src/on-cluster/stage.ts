import { readFileSync } from 'node:fs';
import { integer, messageOf, readConfig, ShoalError, text } from '@shoal/core';
import { runWorker, untilStopped } from '@shoal/workers';
import fastify from 'fastify';
import { PipelineStage } from '../paradigms/pipeline-stage.ts';
import { decodeValues, encodeValues, MAX_MESSAGE_BYTES, valueBytes } from './stage-values.ts';

interface Settings {
  readonly STAGE_MODEL: string;
  readonly STAGE_INPUTS: string;
  readonly STAGE_OUTPUTS: string;
  readonly STAGE_SENDS: string;
  readonly NEXT_URL: string;
  readonly BIND_HOST: string;
  readonly BIND_PORT: number;
}

/** Answer of the stages behind this one, and the bytes that went on between them. */
async function ask(
  url: string,
  body: Buffer,
): Promise<{ readonly message: Buffer; readonly bytes: number }> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'Content-Type': 'application/octet-stream' },
    body: new Uint8Array(body),
    signal: AbortSignal.timeout(60_000),
  });
  const message = Buffer.from(await response.arrayBuffer());
  if (!response.ok)
    throw new ShoalError('unavailable', `${url} answers HTTP ${response.status}: ${message}`);
  return { message, bytes: Number(response.headers.get('x-bytes-on') ?? 0) };
}

/** A stage of a pipeline as a server: what it makes goes on to the next one, whose answer it returns. */
await runWorker('bench-stage', async ({ signal }) => {
  const env = readConfig<Settings>(
    {
      STAGE_MODEL: text('ONNX file of the stage'),
      STAGE_INPUTS: text('values it reads, as JSON'),
      STAGE_OUTPUTS: text('values it makes, as JSON'),
      STAGE_SENDS: text('values it sends on, as JSON'),
      NEXT_URL: text('address of the next stage; empty for the last', ''),
      BIND_HOST: text('address to listen on', '0.0.0.0'),
      BIND_PORT: integer('port to listen on', { min: 0, max: 65_535 }, 8080),
    },
    process.env,
  );
  const names = (list: string): string[] => JSON.parse(list) as string[];
  const stage = await PipelineStage.open({
    model: readFileSync(env.STAGE_MODEL),
    inputs: names(env.STAGE_INPUTS),
    outputs: names(env.STAGE_OUTPUTS),
  });
  const sends = new Set(names(env.STAGE_SENDS));
  const server = fastify({ bodyLimit: MAX_MESSAGE_BYTES, forceCloseConnections: true });
  server.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_r, body, done) =>
    done(null, body),
  );
  server.get('/healthz', () => ({ ok: true }));
  server.post('/run', async (request, reply) => {
    try {
      const values = await stage.run(decodeValues(request.body as Buffer));
      const passed = new Map([...values].filter(([name]) => sends.has(name)));
      const isLast = env.NEXT_URL === '';
      const rest = isLast
        ? { message: encodeValues(passed), bytes: 0 }
        : await ask(env.NEXT_URL, encodeValues(passed));
      const bytes = rest.bytes + (isLast ? 0 : valueBytes(passed));
      return await reply
        .header('x-bytes-on', String(bytes))
        .type('application/octet-stream')
        .send(rest.message);
    } catch (error) {
      return await reply.code(502).send(messageOf(error));
    }
  });
  await server.listen({ host: env.BIND_HOST, port: env.BIND_PORT });
  await untilStopped(signal);
  await server.close();
  await stage.close();
  return {};
});
