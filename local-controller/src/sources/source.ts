import type { Clock, Logger } from '@shoal/core';

/** Something that came in: one sample or several, in the format of the dataset. */
export interface Delivery {
  readonly payload: Buffer;
  /** Tells it from others of its source; without one, a repetition is not recognised. */
  readonly id?: string;
  /**
   * Whether an id that was seen before makes it the same delivery. Default true; false where the
   * sender uses ids again and says when it repeats itself.
   */
  readonly mayRepeat?: boolean;
  /** Its id is remembered until {@link SampleSink.keepOnly} leaves it out. */
  readonly isLasting?: boolean;
}

/** What became of a delivery. */
export interface Taken {
  /** Samples that are on the disk now; 0 for a repetition. */
  readonly samples: number;
  /** Why others were refused. */
  readonly refused: readonly string[];
}

/** Where a source puts what it gets. */
export interface SampleSink {
  /**
   * Takes a delivery. When it returns, its samples are on the disk and will be in the dataset, once:
   * only then may the sender forget them.
   *
   * @throws ShoalError `resource_exhausted` when the dataset, or the disk, is full.
   */
  take(delivery: Delivery): Taken;
  /** Whether a delivery of this id was taken. */
  knows(id: string): boolean;
  /** Counts a delivery that cannot be taken at all. */
  refuse(delivery: Omit<Delivery, 'payload'>, reason: string): void;
  /** Forgets ids of lasting deliveries but these. */
  keepOnly(ids: ReadonlySet<string>): void;
  /** Whether there is room for so many bytes. */
  hasRoom(bytes: number): boolean;
}

/** How a source is. */
export interface SourceHealth {
  /** `Full` is for sources that had to let go of their sender until there is room. */
  readonly state: 'Running' | 'Connecting' | 'Full' | 'Failed';
  readonly message?: string;
}

/** A source of one dataset: it gets samples from somewhere and puts them into its sink. */
export interface SampleSource {
  health(): SourceHealth;
  /** Called at every look at the datasets, never twice at a time. */
  poll?(): void | Promise<void>;
  /** @param isForGood The dataset is gone, or has another source now: nobody should wait for it. */
  close(isForGood: boolean): void | Promise<void>;
}

/** What a source is made with. */
export interface SourceContext<Options = unknown> {
  readonly options: Options;
  /** Keys of the Secret that the dataset names for it. */
  readonly credentials: Readonly<Record<string, string>>;
  readonly dataset: { readonly namespace: string; readonly name: string; readonly uid: string };
  readonly sink: SampleSink;
  /** A path of the node as this process sees it. */
  readonly hostPath: (path: string) => string;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Makes a source. @throws ShoalError `invalid_argument` for options it cannot work with. */
export type SourceFactory<Options = unknown> = (
  context: SourceContext<Options>,
) => SampleSource | Promise<SampleSource>;
