import type { SecureAnswer, SecureRequest } from '@shoal/api';
import type { LocalTask } from './federated-model.ts';
import type { Arrival } from './round-store.ts';
import type { RoundSummary } from './round-summary.ts';

/** What a federation ended with. */
export interface FederationResult {
  readonly reason: string;
  readonly model: Float32Array;
  /** The model with the best scores, and the round that measured it. */
  readonly best: { readonly model: Float32Array; readonly round: number } | undefined;
  readonly history: readonly RoundSummary[];
}

/** An update that came, with what its bytes hold: saves reading them back when it is their turn. */
export interface DecodedArrival extends Arrival {
  readonly delta: Float32Array;
}

/** What rounds ask of the server that talks to participants. */
export interface RoundPorts {
  readonly ask: (participant: string) => void;
  readonly tell: (participant: string, request: SecureRequest) => void;
  readonly ended: (reason: string, failed: boolean) => void;
  readonly onRound: (summary: RoundSummary) => void;
  readonly onStalled: (reason: string) => void;
  /** The federation cannot go on, because of this. */
  readonly broken: (error: unknown) => void;
}

/** Rounds as the server that talks to participants sees them. */
export interface Rounds {
  readonly round: number;
  readonly attempt: number;
  /** The model of this round, and its digest. */
  readonly bytes: Uint8Array;
  readonly digest: string;
  /** Values of the vector that travels. */
  readonly size: number;
  readonly history: readonly RoundSummary[];
  /** Whether only scores are wanted in this round. */
  readonly isEvaluation: boolean;
  /** Whether updates for older models are taken too. */
  readonly isAsynchronous: boolean;
  /** Why there will be no other round; undefined while there may be one. */
  readonly outcome: string | undefined;
  /** What participants are told to do in this round. */
  instructions(): LocalTask;
  countDown(bytes: number): void;
  join(participant: string, nowMs: number): void;
  leave(participant: string): void;
  failed(participant: string, reason: string, nowMs: number): void;
  tick(nowMs: number): void;
  /** Whether an update of a participant for a round is waited for. */
  expects(participant: string, round: number): boolean;
  /** Whether that update is here, or went into a round. */
  hasUpdate(participant: string, round: number): boolean;
  /** Keeps updates durably. */
  keep(arrivals: readonly DecodedArrival[]): void;
  received(participant: string, round: number, nowMs: number): void;
  /** An answer of secure aggregation. */
  answer(participant: string, answer: SecureAnswer, nowMs: number): void;
  /** Whether the masked vector of a participant is waited for. */
  expectsMasked(
    participant: string,
    at: { readonly round: number; readonly attempt: number },
  ): boolean;
  keepMasked(participant: string, bytes: Uint8Array, nowMs: number): void;
  result(reason: string): FederationResult;
  close(): void;
}
