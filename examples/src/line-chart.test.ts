import { expect, test } from 'vitest';
import { lineChartSvg } from './line-chart.ts';

test('a line per name, baselines across, names kept from being markup', () => {
  const svg = lineChartSvg('a < b', [
    { name: 'federated', values: [0.1, 0.6, 1] },
    { name: 'alone & sad', values: [0.5] },
  ]);
  expect(svg).toContain('a &#60; b');
  expect(svg).toContain('alone &#38; sad 50.0');
  expect(svg.match(/points="([^"]+)"/g)).toEqual([
    'points="52.0,280.0 231.0,146.7 410.0,40.0"',
    'points="52.0,173.3 231.0,173.3 410.0,173.3"',
  ]);
  expect(svg.match(/stroke-dasharray/g)).toHaveLength(1);
});

test('labels of lines that end together stand apart', () => {
  const svg = lineChartSvg('t', [
    { name: 'a', values: [0.5, 0.9] },
    { name: 'b', values: [0.901] },
    { name: 'c', values: [0.899] },
  ]);
  const at = ['a 90.0', 'b 90.1', 'c 89.9'].map((label) =>
    Number(new RegExp(`y="([\\d.]+)" fill="[^"]+">${label}`).exec(svg)?.[1]),
  );
  const [first = 0, second = 0, third = 0] = at.toSorted((x, y) => x - y);
  expect(second - first).toBeCloseTo(15, 1);
  expect(third - second).toBeCloseTo(15, 1);
});
