import { ShoalError } from '@shoal/core';
import type { CompressionOptions } from './compression.ts';
import { LEAST_PARTICIPANTS } from './privacy/secure-aggregation/client.ts';
import type { StrategyParameters } from './strategy.ts';

export interface PrivacyOptions {
  /** Largest L2 norm of a participant's change; larger ones are scaled down. > 0. Default none. */
  readonly clipping?: number;
  /** Whether the bound follows the median norm (Andrew et al. 2021). Default false. */
  readonly adaptive?: boolean;
  /** Standard deviation of the noise relative to what one participant can do; needs `clipping`. Default 0. */
  readonly noiseMultiplier?: number;
  /** δ of the guarantee. Default 1e-5. */
  readonly delta?: number;
  /** Training stops before ε would exceed this. Default unlimited. */
  readonly epsilonBudget?: number;
  /** The aggregator learns the sum of all changes only (see {@link SecureAggregationClient}). */
  readonly secureAggregation?: {
    /** Largest magnitude of a value of a change, > 0. Default the clipping bound, else 1. */
    readonly range?: number;
    /** Time participants have for each of its stages, in milliseconds. Default 60 000. */
    readonly stageMs?: number;
  };
}

export interface FederationOptions {
  readonly job: string;
  /** Rounds to train, ≥ 1. */
  readonly rounds: number;
  /** Participants the federation waits for, ≥ 1. */
  readonly participants: number;
  readonly strategy?: { readonly name: string; readonly parameters?: StrategyParameters };
  /** Participants asked per round, ≤ participants. Default all. */
  readonly selected?: number;
  /** Asked beyond `selected`; a round ends when `selected` have answered. Default 0. */
  readonly overSelection?: number;
  /** Fewest updates a round can end with when its time is over. Default all selected. */
  readonly quorum?: number;
  /** Time of a round, in milliseconds. Default 10 minutes. */
  readonly deadlineMs?: number;
  /** How often a round without quorum is given another deadline before the job fails. Default 3. */
  readonly retries?: number;
  readonly compression?: CompressionOptions;
  readonly privacy?: PrivacyOptions | undefined;
  /** Passes over a participant's data per round. Default 1. */
  readonly localEpochs?: number;
  readonly batchSize?: number;
  readonly learningRate?: number;
  /** Seed of selection and of the participants' order of samples. Default 1. */
  readonly seed?: number;
  /** Held-out samples at the aggregator. */
  readonly evaluation?:
    | {
        /** Scored in every so many rounds, ≥ 1. Default 1. */
        readonly every?: number;
      }
    | undefined;
  /** Whether participants may be aggregators of groups (see {@link GroupAggregator}). Default flat. */
  readonly topology?: 'flat' | 'hierarchical';
  /** Rounds without a better score after which training ends. Default never. */
  readonly patience?: number;
}

/** The options with every default filled in. */
export type ResolvedFederation = Required<
  Omit<FederationOptions, 'privacy' | 'strategy' | 'evaluation'>
> &
  Pick<FederationOptions, 'evaluation'> & {
    readonly privacy: PrivacyOptions | undefined;
    readonly strategy: { readonly name: string; readonly parameters: StrategyParameters };
  };

const MAX_ROUNDS = 1_000_000;

/** Fills in defaults and checks every number; all faults are listed at once. */
export function resolveFederation(options: FederationOptions): ResolvedFederation {
  const selected = options.selected ?? options.participants;
  const defaults = {
    selected,
    overSelection: 0,
    quorum: selected,
    deadlineMs: 600_000,
    retries: 3,
    compression: { name: 'none' },
    localEpochs: 1,
    batchSize: 32,
    learningRate: 0.01,
    seed: 1,
    topology: 'flat',
    patience: Number.MAX_SAFE_INTEGER,
  } as const;
  const given = Object.fromEntries(Object.entries(options).filter(([, v]) => v !== undefined));
  const resolved: ResolvedFederation = {
    ...defaults,
    ...(given as unknown as FederationOptions),
    strategy: { name: 'FedAvg', parameters: {}, ...options.strategy },
    privacy: options.privacy,
  };
  const faults = faultsOf(resolved);
  if (faults.length > 0) throw new ShoalError('invalid_argument', faults.join('; '));
  return resolved;
}

function faultsOf(resolved: ResolvedFederation): string[] {
  const { selected, participants, privacy, deadlineMs, learningRate } = resolved;
  const faults: string[] = [];
  const whole = (name: string, value: number, min: number, max: number): void => {
    if (!Number.isInteger(value) || value < min || value > max)
      faults.push(`${name} must be a whole number in [${min}, ${max}], got ${value}`);
  };
  whole('rounds', resolved.rounds, 1, MAX_ROUNDS);
  whole('participants', participants, 1, MAX_ROUNDS);
  whole('selected', selected, 1, participants);
  whole('overSelection', resolved.overSelection, 0, participants - selected);
  whole('quorum', resolved.quorum, 1, selected);
  whole('localEpochs', resolved.localEpochs, 1, MAX_ROUNDS);
  whole('batchSize', resolved.batchSize, 1, MAX_ROUNDS);
  whole('evaluation.every', resolved.evaluation?.every ?? 1, 1, MAX_ROUNDS);
  if (!(deadlineMs > 0)) faults.push(`deadlineMs must be > 0, got ${deadlineMs}`);
  if (!(learningRate > 0)) faults.push(`learningRate must be > 0, got ${learningRate}`);
  return privacy ? [...faults, ...privacyFaults(privacy, resolved)] : faults;
}

function privacyFaults(
  { clipping, adaptive, noiseMultiplier = 0, epsilonBudget, secureAggregation }: PrivacyOptions,
  { selected, compression }: ResolvedFederation,
): string[] {
  const faults: string[] = [];
  if (clipping !== undefined && !(clipping > 0))
    faults.push(`privacy.clipping must be > 0, got ${clipping}`);
  if (!(noiseMultiplier >= 0))
    faults.push(`privacy.noiseMultiplier must be ≥ 0, got ${noiseMultiplier}`);
  if (epsilonBudget !== undefined && !(noiseMultiplier > 0))
    faults.push('privacy.epsilonBudget needs noise: without it ε has no bound');
  if (clipping === undefined && (noiseMultiplier > 0 || adaptive === true))
    faults.push('privacy.clipping is needed: noise is measured by it');
  if (!secureAggregation) return faults;
  const { range = 1, stageMs = 1 } = secureAggregation;
  if (!(range > 0)) faults.push(`privacy.secureAggregation.range must be > 0, got ${range}`);
  if (!(stageMs > 0)) faults.push(`privacy.secureAggregation.stageMs must be > 0, got ${stageMs}`);
  if (selected < LEAST_PARTICIPANTS)
    faults.push(
      `secure aggregation needs ${LEAST_PARTICIPANTS} participants in a round or more, ${selected} are asked`,
    );
  if (compression.name !== 'none')
    faults.push(
      `secure aggregation adds whole changes: compression must be none, got ${compression.name}`,
    );
  return faults;
}
