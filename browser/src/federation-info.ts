/** What a page needs to know before it takes part. */
export interface FederationInfo {
  readonly job: string;
  /** Shape of one image. */
  readonly inputShape: readonly number[];
  /** What the strategy asks of local training. */
  readonly local: { readonly proximal: number; readonly controlVariates: boolean };
}
