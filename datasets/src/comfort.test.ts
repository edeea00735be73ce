import { expect, test } from 'vitest';
import { CLIMATES, simulateVotes } from './comfort-simulator.ts';
import { predictedMeanVote } from './predicted-mean-vote.ts';

// ISO 7730:2005, table D.1: air and radiant temperature, velocity, humidity, met, clo → PMV.
test.each([
  [22, 22, 0.1, 60, 1.2, 0.5, -0.75],
  [27, 27, 0.1, 60, 1.2, 0.5, 0.77],
  [27, 27, 0.3, 60, 1.2, 0.5, 0.44],
  [23.5, 25.5, 0.1, 60, 1.2, 0.5, -0.01],
  [23.5, 25.5, 0.3, 60, 1.2, 0.5, -0.55],
  [19, 19, 0.1, 40, 1.2, 1, -0.6],
  [23.5, 23.5, 0.3, 40, 1.2, 1, 0.12],
  [23, 21, 0.1, 40, 1.2, 1, 0.05],
  [23, 21, 0.3, 40, 1.2, 1, -0.16],
  [22, 22, 0.1, 60, 1.6, 0.5, 0.05],
  [27, 27, 0.1, 60, 1.6, 0.5, 1.17],
  [27, 27, 0.3, 60, 1.6, 0.5, 0.95],
])('predicted mean vote of the standard: %f °C, %f °C, %f m/s, %f %%, %f met, %f clo', (...row) => {
  const [ta, tr, vel, rh, met, clo, pmv] = row;
  const vote = predictedMeanVote({
    airTemperature: ta,
    radiantTemperature: tr,
    airVelocity: vel,
    humidity: rh,
    metabolicRate: met,
    clothing: clo,
  });
  expect(Math.abs(vote - pmv)).toBeLessThan(0.1);
});

test('votes are the same for a seed, of all three kinds, and differ between cities', () => {
  const shares = CLIMATES.map((climate) => {
    const { labels, size } = simulateVotes(climate, { count: 2_000, seed: 1 });
    return [0n, 1n, 2n].map((k) => labels.filter((l) => l === k).length / size);
  });
  for (const share of shares) for (const part of share) expect(part).toBeGreaterThan(0.03);
  const climate = CLIMATES[0];
  if (!climate) throw new Error('no climate');
  expect(simulateVotes(climate, { count: 50, seed: 2 })).toEqual(
    simulateVotes(climate, { count: 50, seed: 2 }),
  );
});
