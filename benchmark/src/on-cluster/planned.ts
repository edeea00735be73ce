import { ShoalError } from '@shoal/core';
import type { PlannedCase } from '../plan/planned-case.ts';

/** The case a pod belongs to. @throws ShoalError `failed_precondition` outside of one. */
export function plannedHere(): PlannedCase {
  const text = process.env['SHOAL_BENCH_CASE'];
  if (text === undefined)
    throw new ShoalError(
      'failed_precondition',
      'SHOAL_BENCH_CASE is missing: run by shoal bench run --on cluster',
    );
  return JSON.parse(text) as PlannedCase;
}
