import { join, relative } from 'node:path';
import { ShoalError } from '@shoal/core';
import { rolldown } from 'rolldown';

const ROOT = join(import.meta.dirname, '../..');
const NOTHING = '\0nothing-of-node';
/** Reads and writes model files by path, which a page never asks for. */
const KNOWN_FILES = join('training', 'src', 'onnx', 'model-file.ts');

/**
 * The page's script: the participant, the training engine and the runtime for browsers, in one file.
 *
 * @throws ShoalError `internal` when a part of it needs Node.
 */
export async function bundlePage(): Promise<string> {
  const needsNode = new Set<string>();
  const build = await rolldown({
    input: join(import.meta.dirname, 'page', 'main.ts'),
    platform: 'browser',
    resolve: { alias: { 'onnxruntime-node': 'onnxruntime-web/wasm' } },
    shimMissingExports: true,
    logLevel: 'silent',
    plugins: [
      {
        name: 'nothing-of-node',
        resolveId: (id, importer) => {
          if (!id.startsWith('node:')) return null;
          needsNode.add(importer ?? id);
          return NOTHING;
        },
        load: (id) => (id === NOTHING ? 'export {};' : null),
      },
    ],
  });
  const { output } = await build.generate({ format: 'esm', minify: true });
  await build.close();
  const [{ code, modules, imports }] = output;
  const rendered = Object.entries(modules)
    .filter(([id, { renderedLength }]) => needsNode.has(id) && renderedLength > 0)
    .map(([id]) => relative(ROOT, id))
    .filter((id) => id !== KNOWN_FILES);
  if (rendered.length > 0 || imports.length > 0)
    throw new ShoalError(
      'internal',
      `the page's script needs Node, in ${[...rendered, ...imports].join(', ')}`,
    );
  return code;
}
