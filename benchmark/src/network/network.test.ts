import { describe, expect, it } from 'vitest';
import { ConfigFile, ConfigNode } from '../config/config-node.ts';
import { readTestEnv } from '../config/test-env.ts';
import { roundClock } from '../paradigms/federated.ts';
import { linkOf, transferSeconds } from './profiles.ts';
import { World } from './world.ts';

function world(more: string, seed = 1): World {
  const text = `testenv:\n  dataset: { test_data: ./x.csv }\n  metrics: [accuracy]\n${more}`;
  return new World(readTestEnv(new ConfigNode(ConfigFile.parse('/env.yaml', text))), seed);
}

const LINK = '  network: { up_mbps: 8, down_mbps: 80, latency_ms: 100 }\n';
const MEGABYTE = 1e6;

describe('a link', () => {
  it('takes its latency and the time of the bytes', () => {
    const link = { upMbps: 8, downMbps: 80, latencyMs: 100, loss: 0 };
    expect(transferSeconds(MEGABYTE, link, 'up')).toBeCloseTo(1.1, 9);
    expect(transferSeconds(MEGABYTE, link, 'down')).toBeCloseTo(0.2, 9);
  });

  it('is slowed down by loss as TCP is: half the rate for four times the loss', () => {
    const at = (loss: number): number =>
      transferSeconds(1e9, { upMbps: 1e6, downMbps: 1e6, latencyMs: 50, loss }, 'up');
    expect(at(0.04) / at(0.01)).toBeCloseTo(2, 3);
  });

  it('has a name, in any case of letters', () => {
    expect(linkOf('FACTORY lan').upMbps).toBe(1_000);
    expect(() => linkOf('5H')).toThrow(/no profile "5H"; did you mean "5G"\?/);
  });
});

describe('rounds under a virtual clock', () => {
  const work = (participant: number, samples: number) => ({
    participant,
    samples,
    epochs: 1,
    bytesDown: MEGABYTE,
    bytesUp: MEGABYTE,
  });

  it('last as long as their slowest participant', () => {
    const w = world(`${LINK}  devices: { compute_factors: [1, 0.5], train_ms_per_sample: 10 }\n`);
    const clock = roundClock(w, 2);
    expect(clock.arrivals(1, [work(0, 100), work(1, 100)])).toEqual([true, true]);
    // Down 0.2 s, 100 samples at 20 ms, up 1.1 s.
    expect(w.now).toBeCloseTo(0.2 + 2 + 1.1, 9);
  });

  it('leave stragglers behind at a deadline', () => {
    const w = world(
      `${LINK}  devices: { compute_factors: [1, 0.01], train_ms_per_sample: 10, deadline_seconds: 5 }\n`,
    );
    expect(roundClock(w, 2).arrivals(1, [work(0, 100), work(1, 100)])).toEqual([true, false]);
    expect(w.now).toBe(5);
  });

  it('lose the update of a device that goes away', () => {
    const w = world(`${LINK}  devices: { traces: [[[0, 100]], [[0, 1]]] }\n`);
    const clock = roundClock(w, 2);
    expect(clock.available(1)).toEqual([0, 1]);
    expect(clock.arrivals(1, [work(0, 10), work(1, 10)])).toEqual([true, false]);
    expect(clock.available(2)).toEqual([0]);
  });

  it('wait until somebody can be reached, and no longer', () => {
    const w = world(`${LINK}  devices: { traces: [[[0, 5], [10, 1000]]] }\n`);
    w.now = 7;
    expect(roundClock(w, 1).available(1)).toEqual([0]);
    expect(w.now).toBe(10);
  });

  it('end where nobody will ever be there again', () => {
    const w = world(`${LINK}  devices: { traces: [[[0, 5]]] }\n`);
    w.now = 7;
    expect(() => roundClock(w, 1).available(1)).toThrow(
      /no device can be reached any more after 7\.0/,
    );
  });

  it('take intervals that touch for one', () => {
    const w = world(`${LINK}  devices: { traces: [[[0, 5], [5, 1000]]] }\n`);
    expect(w.device(0).staysOn(2, 8)).toBe(true);
  });

  it('draw the same availability for the same seed', () => {
    const course = (seed: number): boolean[] => {
      const w = world('  devices: { availability: { on_share: 0.5, period_seconds: 10 } }\n', seed);
      return Array.from({ length: 50 }, (_, i) => w.device(3).isOn(i * 10));
    };
    expect(course(1)).toEqual(course(1));
    expect(course(1)).not.toEqual(course(2));
    const on = course(1).filter((v) => v).length;
    expect(on).toBeGreaterThan(12);
    expect(on).toBeLessThan(38);
  });
});
