/**
 * The participant's side of federated learning, for any place that has JavaScript: nothing of Node in it.
 * `@shoal/lib` has the same and what Node adds.
 */

export { portableCrypto } from '../privacy/secure-aggregation/secure-crypto.ts';
export type { RoundSummary } from '../round-summary.ts';
export { TrainerModel, type TrainerModelOptions } from '../trainer-model.ts';
export type {
  FrameHandlers,
  FrameStream,
  FrameTransport,
  ParticipantPlatform,
} from './frame-stream.ts';
export { Participant, type ParticipantOptions, type ParticipantResult } from './participant.ts';
export { webSocketTransport } from './websocket-transport.ts';
