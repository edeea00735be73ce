import { ShoalError } from '@shoal/core';
import type { MinerParameters } from '../hard-example/miner.ts';
import { Adwin } from './adwin.ts';
import type { DriftDetector } from './detector.ts';
import { PageHinkley } from './page-hinkley.ts';

export const DRIFT_DETECTORS = ['PageHinkley', 'ADWIN'] as const;

function real(
  parameters: MinerParameters,
  name: string,
  limits: { readonly fallback: number; readonly above: number; readonly below: number },
): number {
  const given = parameters[name];
  if (given === undefined) return limits.fallback;
  const value = Number(given);
  if (String(given).trim() !== '' && value > limits.above && value < limits.below) return value;
  throw new ShoalError(
    'invalid_argument',
    `driftDetection: ${name} must be a number above ${limits.above} and below ${limits.below}, got "${given}"`,
  );
}

/**
 * A detector by its name in a manifest.
 *
 * @throws ShoalError `invalid_argument` for an unknown name or parameter, or a value out of range.
 */
export function driftDetector(name: string, parameters: MinerParameters = {}): DriftDetector {
  const known: Readonly<Record<string, readonly string[]>> = {
    PageHinkley: ['delta', 'threshold', 'minInstances'],
    ADWIN: ['delta'],
  };
  const names = Object.hasOwn(known, name) ? known[name] : undefined;
  if (!names)
    throw new ShoalError(
      'invalid_argument',
      `there is no drift detection "${name}"; choose one of ${DRIFT_DETECTORS.join(', ')}`,
    );
  const stray = Object.keys(parameters).find((p) => !names.includes(p));
  if (stray !== undefined)
    throw new ShoalError(
      'invalid_argument',
      `${name} has no parameter "${stray}"; it has: ${names.join(', ')}`,
    );
  if (name === 'ADWIN')
    return new Adwin({ delta: real(parameters, 'delta', { fallback: 0.002, above: 0, below: 1 }) });
  return new PageHinkley({
    delta: real(parameters, 'delta', { fallback: 0.005, above: -1e-12, below: 1 }),
    threshold: real(parameters, 'threshold', { fallback: 10, above: 0, below: 1e9 }),
    minInstances: real(parameters, 'minInstances', { fallback: 30, above: 0, below: 1e9 }),
  });
}
