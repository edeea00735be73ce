import { digestOf, ShoalError } from '@shoal/core';
import type { Algorithm } from '../config/algorithm.ts';
import type { JsonMap } from '../config/config-node.ts';
import type { TestEnv } from '../config/test-env.ts';
import { codeDigest, dataDigest } from './fingerprint.ts';
import { checkModule, loadModule } from './module-file.ts';
import type { PlannedCase } from './planned-case.ts';
import { fromEnvironment } from './secrets.ts';

/** Hash of the files that fill an algorithm's slots. */
export function digestOfModules({ modules }: Algorithm): string {
  return codeDigest(modules.flatMap((m) => m.url ?? []));
}

/**
 * Hash of the samples: of their files, or of the code that makes them and the files it reads.
 *
 * @param load Default {@link checkModule}; {@link loadModule} where the process has a time limit anyway.
 */
export async function digestOfData(
  { dataset }: TestEnv,
  load: typeof checkModule = checkModule,
): Promise<string> {
  if (dataset.kind === 'files')
    return dataDigest(dataset.train === undefined ? [dataset.test] : [dataset.train, dataset.test]);
  const { sources } = await load(dataset.url, 'dataset');
  const read = dataDigest(
    await sources(fromEnvironment(dataset.hyperparameters, process.env) as JsonMap),
  );
  return digestOf(`${codeDigest([dataset.url])} ${read}`).slice('sha256:'.length);
}

/**
 * Whether code and data are still those the case was planned with: a result under another's id would
 * be a lie.
 *
 * @throws ShoalError `failed_precondition` saying what changed.
 */
export async function expectUnchanged({ algorithm, testEnv, digests }: PlannedCase): Promise<void> {
  const what = [
    digestOfModules(algorithm) === digests.modules ? '' : 'the code of a module',
    (await digestOfData(testEnv, loadModule)) === digests.data ? '' : 'the data',
  ].filter((w) => w !== '');
  if (what.length > 0)
    throw new ShoalError(
      'failed_precondition',
      `${what.join(' and ')} changed since the run was planned; run it again`,
    );
}
