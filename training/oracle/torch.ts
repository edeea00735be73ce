import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

const INSTALL_MS = 600_000;
const EXPORT_MS = 300_000;
const CHECK = 'import torch, onnx, numpy';

function works(python: string): boolean {
  return spawnSync(python, ['-c', CHECK], { timeout: 60_000 }).status === 0;
}

/**
 * A Python that has torch and onnx: `SHOAL_PYTHON`, the machine's, or with `install` a virtual
 * environment made in the project's cache (some minutes, 3 GB).
 */
export function findTorch(options: { readonly install: boolean }): string | undefined {
  const cache = join(import.meta.dirname, '../../.cache/torch');
  const cached = join(cache, 'bin/python');
  const candidates = [process.env['SHOAL_PYTHON'], 'python3', cached];
  const found = candidates.find(
    (p) => p !== undefined && (p === 'python3' || existsSync(p)) && works(p),
  );
  if (found !== undefined || !options.install) return found;
  const made = spawnSync('python3', ['-m', 'venv', cache], { timeout: 60_000 });
  if (made.status !== 0) return undefined;
  const install = ['-m', 'pip', 'install', '-q', 'torch', 'onnx', 'onnxscript', 'numpy'];
  spawnSync(cached, install, { timeout: INSTALL_MS, stdio: 'ignore' });
  return works(cached) ? cached : undefined;
}

/** Writes models and traces to a folder. @throws Error with PyTorch's output when it fails. */
export function exportWithTorch(python: string, dir: string): void {
  const script = join(import.meta.dirname, 'torch_models.py');
  const { status, stderr } = spawnSync(python, [script, dir], {
    timeout: EXPORT_MS,
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`torch_models.py failed: ${stderr.slice(-2000)}`);
}
