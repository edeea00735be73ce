import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { stringify } from 'yaml';
import { inline, readSchemas, type Schema, SERVED_MODELS } from './generate-kubernetes-schemas.ts';

/**
 * `npm run generate` writes every generated file; `npm run generate -- --check` writes nothing and
 * fails, naming them, when some are stale.
 */
const root = join(import.meta.dirname, '..');
const check = process.argv.includes('--check');
const stale: string[] = [];

function emit(path: string, content: string): void {
  const file = join(root, path);
  let current = '';
  try {
    current = readFileSync(file, 'utf8');
  } catch {
    // not there yet: stale
  }
  if (current === content) return;
  stale.push(path);
  if (check) return;
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, content);
}

/** Kubernetes types inlined into our kinds. */
function kubernetesTypes(): Record<string, Schema> {
  const roots = [
    'V1PodTemplateSpec',
    'V1DeploymentSpec',
    'V1JobSpec',
    'V2HorizontalPodAutoscalerSpec',
  ];
  const all = readSchemas(roots);
  const at = (model: string): Schema => inline(all[model] ?? {}, all);
  const hpa = at('V2HorizontalPodAutoscalerSpec').properties ?? {};
  return {
    PodTemplateSpec: at('V1PodTemplateSpec'),
    DeploymentSpec: at('V1DeploymentSpec'),
    JobSpec: at('V1JobSpec'),
    HpaMetrics: hpa['metrics'] ?? {},
    HpaBehavior: hpa['behavior'] ?? {},
  };
}

/** TypeScript for the messages of one folder of .proto files. */
function emitProto(module: string, to: string): void {
  const out = mkdtempSync(join(tmpdir(), 'shoal-proto-'));
  const bin = join(root, 'node_modules/.bin');
  const plugin = {
    local: [join(bin, 'protoc-gen-es')],
    out,
    opt: ['target=ts', 'import_extension=ts'],
  };
  const template = JSON.stringify({ version: 'v2', plugins: [plugin] });
  execFileSync(join(bin, 'buf'), ['generate', module, '--template', template], {
    cwd: root,
    stdio: 'inherit',
  });
  for (const file of readdirSync(out)) emit(`${to}/${file}`, readFileSync(join(out, file), 'utf8'));
  rmSync(out, { recursive: true });
}

emitProto('api/proto', 'api/src/wire');
emitProto('training/proto', 'training/src/onnx');
emit(
  'cluster/src/server/builtin-schemas-generated.json',
  `${JSON.stringify(readSchemas(SERVED_MODELS))}\n`,
);
emit('api/src/schema/kubernetes-generated.json', `${JSON.stringify(kubernetesTypes())}\n`);

// Imported only now: the API package reads the file written above.
const { renderCrd, renderReference, renderTypes } = await import('./generate-api.ts');
const { KINDS, OWN_KINDS } = await import('@shoal/api');
emit('api/src/kinds/types-generated.ts', renderTypes());
emit('docs/reference/api.md', renderReference());
for (const kind of [...KINDS, ...OWN_KINDS])
  emit(`deploy/crds/sedna.io_${kind.plural}.yaml`, renderCrd(kind));

const { managerAccess } = await import('@shoal/global-manager');
const access = managerAccess()
  .map((o) => stringify(o))
  .join('---\n');
emit('deploy/rbac/global-manager.yaml', `# Written by npm run generate.\n${access}`);

if (check && stale.length > 0) {
  console.error(`stale generated files (run npm run generate):\n  ${stale.join('\n  ')}`);
  process.exit(1);
}
console.log(check ? 'generated files are fresh' : `wrote ${stale.length} files`);
