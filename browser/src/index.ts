export type { FederationInfo } from './federation-info.ts';
export { ParticipantPage, type ParticipantPageOptions } from './participant-page.ts';
