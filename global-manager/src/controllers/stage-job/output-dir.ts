import { ShoalError } from '@shoal/core';

/** Whether an address is somewhere else than on a node. */
export function isRemote(url: string): boolean {
  return /^[a-z][a-z0-9+.-]*:/i.test(url);
}

/**
 * Checks where a job's stages are to write.
 *
 * @throws ShoalError `invalid_argument` for what cannot be written to.
 */
export function expectOutputDir(outputDir: string, allowed: { readonly s3: boolean }): void {
  if (!isRemote(outputDir) || (allowed.s3 && /^s3:\/\/[^/]+/.test(outputDir))) return;
  throw new ShoalError(
    'invalid_argument',
    `spec.outputDir: "${outputDir}" cannot be written to; use a host path${allowed.s3 ? ' or s3://bucket/folder' : ', writing to object storage is for incremental learning'}`,
  );
}
