import { ShoalError, seededRandom } from '@shoal/core';
import type { DeviceOptions, TestEnv } from '../config/test-env.ts';
import { type LinkOptions, linkOf, transferSeconds } from './profiles.ts';

/** A device and its link, under a clock that only the case moves. */
export interface Device {
  readonly link: LinkOptions;
  readonly computeFactor: number;
  /** Whether it can be reached at a time, in virtual seconds. */
  readonly isOn: (at: number) => boolean;
  /** Whether it stays reachable from one time to another. */
  readonly staysOn: (from: number, to: number) => boolean;
  /** When it can be reached next, at a time or later; Infinity for never again. */
  readonly nextOn: (at: number) => number;
}

/** Periods that are looked ahead for a device. */
const MOST_PERIODS = 100_000;

type Interval = readonly [number, number];

/** Periods that are all on or off, drawn one after another as far as anybody asks. */
function drawn(device: number, options: DeviceOptions, seed: number): (period: number) => boolean {
  const random = seededRandom(seed).fork(`availability ${device}`);
  const known: boolean[] = [];
  return (period) => {
    while (known.length <= period) known.push(random.next() < options.onShare);
    return known[period] ?? true;
  };
}

function availability(
  device: number,
  options: DeviceOptions,
  seed: number,
): Pick<Device, 'isOn' | 'staysOn' | 'nextOn'> {
  const { traces, onShare, periodSeconds } = options;
  if (traces.length > 0) {
    const trace: readonly Interval[] = traces[device % traces.length] ?? [];
    return {
      isOn: (at) => trace.some(([from, to]) => at >= from && at < to),
      staysOn: (from, to) => trace.some(([a, b]) => from >= a && to <= b),
      nextOn: (at) =>
        Math.max(at, trace.find(([, to]) => at < to)?.[0] ?? Number.POSITIVE_INFINITY),
    };
  }
  if (onShare >= 1) return { isOn: () => true, staysOn: () => true, nextOn: (at) => at };
  const on = drawn(device, options, seed);
  const period = (at: number): number => Math.floor(at / periodSeconds);
  return {
    isOn: (at) => on(period(at)),
    nextOn: (at) => {
      if (on(period(at))) return at;
      for (let p = period(at) + 1; p < period(at) + MOST_PERIODS; p++)
        if (on(p)) return p * periodSeconds;
      return Number.POSITIVE_INFINITY;
    },
    staysOn: (from, to) => {
      for (let p = period(from); p <= period(to); p++) if (!on(p)) return false;
      return true;
    },
  };
}

/** Devices, their links and a virtual clock: the same seed gives the same course. */
export class World {
  readonly options: DeviceOptions;
  readonly #env: TestEnv;
  readonly #seed: number;
  readonly #devices = new Map<number, Device>();
  /** Virtual seconds since the case began. */
  now = 0;

  constructor(env: TestEnv, seed: number) {
    this.#env = env;
    this.options = env.devices;
    this.#seed = seed;
  }

  device(index: number): Device {
    const known = this.#devices.get(index);
    if (known) return known;
    const { links } = this.#env.network;
    const { computeFactors } = this.options;
    const device = {
      link: linkOf(links[index % links.length] ?? 'unlimited'),
      computeFactor: computeFactors[index % computeFactors.length] ?? 1,
      ...availability(index, this.options, this.#seed),
    };
    this.#devices.set(index, device);
    return device;
  }

  /**
   * Waits until a device can be reached.
   *
   * @returns Virtual seconds that took.
   * @throws ShoalError `failed_precondition` for one that never comes back.
   */
  reach(index: number): number {
    const at = this.device(index).nextOn(this.now);
    if (at === Number.POSITIVE_INFINITY)
      throw new ShoalError(
        'failed_precondition',
        `device ${index} cannot be reached any more after ${this.now.toFixed(1)} virtual seconds; see devices in the test environment`,
      );
    const waited = at - this.now;
    this.now = at;
    return waited;
  }

  /** Seconds of local training on so many samples. */
  trainSeconds(index: number, samples: number): number {
    return (samples * this.options.trainMsPerSample) / 1000 / this.device(index).computeFactor;
  }

  inferSeconds(index: number, samples = 1): number {
    return (samples * this.options.inferMsPerSample) / 1000 / this.device(index).computeFactor;
  }

  upSeconds(index: number, bytes: number): number {
    return transferSeconds(bytes, this.device(index).link, 'up');
  }

  downSeconds(index: number, bytes: number): number {
    return transferSeconds(bytes, this.device(index).link, 'down');
  }
}
