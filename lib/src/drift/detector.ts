/** Watches one figure, sample by sample, and says when its mean has fallen for good. */
export interface DriftDetector {
  /**
   * Takes the next value.
   *
   * @returns True when the mean has fallen; the detector then begins anew with what is new.
   */
  add(value: number): boolean;
}
