import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { messageOf } from '@shoal/core';
import { compareAll, describe } from '../../training/oracle/compare.ts';
import { exportWithTorch, findTorch } from '../../training/oracle/torch.ts';
import type { Outcome } from './outcome.ts';

/** Ten training steps of seventeen models agree with PyTorch's. */
export async function torchOracle(): Promise<Outcome[]> {
  const name = 'training steps agree with PyTorch';
  const python = findTorch({ install: process.env['SHOAL_NO_INSTALL'] === undefined });
  if (python === undefined)
    return [
      {
        name,
        result: 'skipped',
        detail: 'PyTorch is not here and cannot be installed (SHOAL_PYTHON)',
      },
    ];
  const dir = mkdtempSync(join(tmpdir(), 'shoal-oracle-'));
  try {
    exportWithTorch(python, dir);
    return (await compareAll(dir)).map((c) => ({
      name: `${c.model} with ${c.optimizer} trains as in PyTorch`,
      result: c.agrees ? 'passed' : 'failed',
      detail: describe(c),
    }));
  } catch (error) {
    return [{ name, result: 'failed', detail: messageOf(error) }];
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
