import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { compareAll, describe } from './compare.ts';
import { exportWithTorch, findTorch } from './torch.ts';

/** `npm run oracle:torch`: ten training steps of seventeen models, here and in PyTorch. */
const python = findTorch({ install: true });
if (python === undefined) {
  console.error(
    'PyTorch is not here and cannot be installed; point SHOAL_PYTHON at a Python that has torch and onnx',
  );
  process.exit(1);
}
const dir = mkdtempSync(join(tmpdir(), 'shoal-oracle-'));
try {
  exportWithTorch(python, dir);
  const results = await compareAll(dir);
  for (const result of results) console.log(describe(result));
  console.log(JSON.stringify(results));
  if (results.some((r) => !r.agrees)) process.exitCode = 1;
} finally {
  rmSync(dir, { recursive: true, force: true });
}
