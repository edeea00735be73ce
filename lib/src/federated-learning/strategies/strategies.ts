import { ShoalError } from '@shoal/core';
import type { ResolvedFederation } from '../federation-options.ts';
import type { Strategy, StrategyParameters } from '../strategy.ts';
import {
  ditto,
  fedAvg,
  fedAvgM,
  fedBuff,
  fedOpt,
  fedProx,
  normBounded,
  qFedAvg,
  scaffold,
} from './averaging.ts';
import {
  bulyan,
  centeredClipping,
  coordinateMedian,
  geometricMedian,
  krum,
  trimmedMean,
} from './robust.ts';

const STRATEGIES: Readonly<Record<string, (parameters: StrategyParameters) => Strategy>> = {
  FedAvg: fedAvg,
  FedAvgM: fedAvgM,
  FedAdagrad: (p) => fedOpt('FedAdagrad', p),
  FedAdam: (p) => fedOpt('FedAdam', p),
  FedYogi: (p) => fedOpt('FedYogi', p),
  FedProx: fedProx,
  SCAFFOLD: scaffold,
  FedBuff: fedBuff,
  'q-FedAvg': qFedAvg,
  Ditto: ditto,
  Median: coordinateMedian,
  TrimmedMean: trimmedMean,
  Krum: (p) => krum(p, false),
  MultiKrum: (p) => krum(p, true),
  Bulyan: bulyan,
  GeometricMedian: geometricMedian,
  CenteredClipping: centeredClipping,
  NormBounding: normBounded,
};

export const STRATEGY_NAMES: readonly string[] = Object.keys(STRATEGIES);

/**
 * A strategy by its name in a manifest.
 *
 * @throws ShoalError `invalid_argument` for an unknown name or parameter, or a number out of range.
 */
export function createStrategy(name: string, parameters: StrategyParameters = {}): Strategy {
  const make = STRATEGIES[name];
  if (!make)
    throw new ShoalError(
      'invalid_argument',
      `there is no strategy "${name}"; choose one of ${STRATEGY_NAMES.join(', ')}`,
    );
  return make(parameters);
}

/**
 * The strategy of a federation; SCAFFOLD’s share |S|/N is that of its selection where it is not given.
 *
 * @throws ShoalError as {@link createStrategy} does.
 */
export function strategyOfFederation({
  strategy: { name, parameters },
  selected,
  participants,
}: Pick<ResolvedFederation, 'strategy' | 'selected' | 'participants'>): Strategy {
  const share = { participation: selected / participants };
  return createStrategy(name, name === 'SCAFFOLD' ? { ...share, ...parameters } : parameters);
}
