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
    'points="52.0,256.0 231.0,144.0 410.0,40.0"'
      .replace('256.0', '280.0')
      .replace('144.0', '146.7'),
    'points="52.0,173.3 231.0,173.3 410.0,173.3"',
  ]);
  expect(svg.match(/stroke-dasharray/g)).toHaveLength(1);
});
