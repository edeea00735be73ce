import { expect, test } from 'vitest';
import { heatMapSvg } from './heat-map.ts';

test('a cell per score, names escaped, the diagonal framed', () => {
  const svg = heatMapSvg(
    'R & co',
    ['<a>', 'b'],
    [
      [0.5, 0.25],
      [0.4, 1],
    ],
  );
  expect(svg.match(/<rect x=/g)).toHaveLength(4);
  expect(svg.match(/stroke-width/g)).toHaveLength(2);
  expect(svg).toContain('&#60;a&#62;');
  expect(svg).toContain('R &#38; co');
  for (const shown of ['50', '25', '40', '100']) expect(svg).toContain(`>${shown}</text>`);
});
