import { ShoalError } from '@shoal/core';
import { suggestion } from '../config/nearest.ts';

/** A link of a device: rates in Mbit/s, latency one way. */
export interface LinkOptions {
  readonly upMbps: number;
  readonly downMbps: number;
  readonly latencyMs: number;
  readonly loss: number;
}

/**
 * Links by name. Rates, latency (one way) and loss are round figures of what such links give: LTE after
 * Opensignal's national averages, geostationary satellite after its 36,000 km, LoRa by its data rate 5.
 */
const PROFILES: Readonly<Record<string, LinkOptions>> = {
  unlimited: { upMbps: 1e6, downMbps: 1e6, latencyMs: 0, loss: 0 },
  'factory LAN': { upMbps: 1_000, downMbps: 1_000, latencyMs: 0.5, loss: 0 },
  WiFi: { upMbps: 50, downMbps: 100, latencyMs: 3, loss: 0.001 },
  '5G': { upMbps: 50, downMbps: 300, latencyMs: 10, loss: 0.0005 },
  '4G': { upMbps: 10, downMbps: 40, latencyMs: 30, loss: 0.002 },
  '3G': { upMbps: 1, downMbps: 4, latencyMs: 100, loss: 0.01 },
  DSL: { upMbps: 2, downMbps: 16, latencyMs: 15, loss: 0.0005 },
  satellite: { upMbps: 3, downMbps: 25, latencyMs: 300, loss: 0.005 },
  LoRa: { upMbps: 0.0055, downMbps: 0.0055, latencyMs: 500, loss: 0.02 },
};

export const PROFILE_NAMES: readonly string[] = Object.keys(PROFILES);

/** A link by its name, or as it is given. */
export function linkOf(link: string | LinkOptions): LinkOptions {
  if (typeof link !== 'string') return link;
  const found = Object.entries(PROFILES).find(([n]) => n.toLowerCase() === link.toLowerCase());
  if (found) return found[1];
  throw new ShoalError(
    'invalid_argument',
    `network: there is no profile "${link}"${suggestion(link, PROFILE_NAMES)}`,
  );
}

const SEGMENT_BITS = 1_460 * 8;

/**
 * Seconds until so many bytes have arrived: latency, and the rate of the link or what TCP reaches at its
 * loss, whichever is less (Mathis et al. 1997, rate ≤ MSS/RTT · √(3/2)/√p).
 */
export function transferSeconds(
  bytes: number,
  link: LinkOptions,
  direction: 'up' | 'down',
): number {
  const seconds = link.latencyMs / 1000;
  const rate = (direction === 'up' ? link.upMbps : link.downMbps) * 1e6;
  const roundTrip = 2 * seconds;
  const reached =
    link.loss > 0 && roundTrip > 0
      ? Math.min(rate, (SEGMENT_BITS / roundTrip) * Math.sqrt(1.5 / link.loss))
      : rate;
  return seconds + (bytes * 8) / reached;
}
