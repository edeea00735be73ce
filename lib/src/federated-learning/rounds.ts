import type { SecureAnswer, SecureRequest } from '@shoal/api';
import type { LocalTask } from './federated-model.ts';
import type { Loan } from './model-mover.ts';
import type { Arrival } from './round-store.ts';
import type { RoundSummary } from './round-summary.ts';
import type { UpdateSize, Upload } from './update-arena.ts';

/** What a federation ended with. */
export interface FederationResult {
  readonly reason: string;
  readonly model: Float32Array;
  /** The model with the best scores, and the round that measured it. */
  readonly best: { readonly model: Float32Array; readonly round: number } | undefined;
  readonly history: readonly RoundSummary[];
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

/** A masked change that came. */
export interface Masked {
  readonly upload: Upload;
  readonly bytes: number;
}

/** Rounds as the server that talks to participants sees them. */
export interface Rounds {
  readonly round: number;
  readonly attempt: number;
  /** The model of this round; to be given back. */
  lend(): Loan;
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
  /** Room for an update on its way in. @throws ShoalError `resource_exhausted` when the disk is nearly full. */
  reserve(size: UpdateSize): Upload;
  /** Bytes that came, to be looked at before they are kept; until the next are read. */
  peek(upload: Upload, bytes: number): Uint8Array;
  /** Keeps updates durably. */
  keep(arrivals: readonly Arrival[]): void;
  received(participant: string, round: number, nowMs: number): void;
  /** An answer of secure aggregation. */
  answer(participant: string, answer: SecureAnswer, nowMs: number): void;
  /** Whether the masked vector of a participant is waited for. */
  expectsMasked(
    participant: string,
    at: { readonly round: number; readonly attempt: number },
  ): boolean;
  keepMasked(participant: string, masked: Masked, nowMs: number): void;
  result(reason: string): FederationResult;
  close(): void;
}
