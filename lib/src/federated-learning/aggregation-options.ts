import type { Clock, KeyPair, Logger } from '@shoal/core';
import type { LayoutEntry } from './federated-model.ts';
import type { FederationOptions } from './federation-options.ts';
import type { RoundSummary } from './round-summary.ts';

export interface AggregationServerOptions extends FederationOptions {
  /** Folder for models and rounds; what makes a restart go on where it was. */
  readonly dir: string;
  /** The first model, one vector. Ignored when the folder holds a later one. */
  readonly initial: Float32Array;
  /** Names and shapes in the vector, in order. */
  readonly layout: readonly LayoutEntry[];
  /** What participants must bring; without it anyone who reaches the port may take part. */
  readonly token?: string | undefined;
  /** Who may take part; default whoever has the token. */
  readonly names?: readonly string[] | undefined;
  /** Server certificate; without it the stream is not encrypted. */
  readonly tls?: KeyPair | undefined;
  readonly host?: string | undefined;
  /** Default 0: any free port. */
  readonly port?: number | undefined;
  readonly clock?: Clock | undefined;
  readonly logger?: Logger | undefined;
  readonly onRound?: (summary: RoundSummary) => void;
  /** Scores of a model on samples held here: the best model is chosen by them. */
  readonly evaluate?: (model: Float32Array) => Promise<Record<string, number>>;
  /** Values at the front of the vector that are trained; behind them stand running statistics. Default all. */
  readonly trained?: number;
  /** Told when a round cannot go on yet, and why. */
  readonly onStalled?: (reason: string) => void;
}
