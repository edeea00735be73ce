/** A grey image: values in [0, 255], row by row. */
export interface GreyImage {
  readonly width: number;
  readonly height: number;
  readonly pixels: Uint8Array;
}

/** Shades of the 256-colour palette, dark to light (232 to 255, then white). */
function shade(value: number): number {
  return value >= 250 ? 231 : 232 + Math.min(23, Math.floor(value / 10.5));
}

const PLAIN = ' .:-=+*#%@';

/**
 * An image as lines of a terminal. With colours two pixels stand in one character (upper half block);
 * without, every character is one pixel of every second row.
 *
 * @param columns Most characters in a line; larger images are drawn smaller.
 */
export function renderImage(image: GreyImage, columns: number, colours: boolean): string {
  const step = Math.max(1, Math.ceil(image.width / columns));
  const at = (x: number, y: number): number =>
    y < image.height ? (image.pixels[y * image.width + x] ?? 0) : 0;
  const lines: string[] = [];
  for (let y = 0; y < image.height; y += 2 * step) {
    let line = '';
    for (let x = 0; x < image.width; x += step) {
      const [top, bottom] = [at(x, y), at(x, y + step)];
      line += colours
        ? `\u001b[38;5;${shade(top)};48;5;${shade(bottom)}m▀`
        : (PLAIN[Math.min(9, Math.floor((top + bottom) / 2 / 25.6))] ?? ' ');
    }
    lines.push(colours ? `${line}\u001b[0m` : line.trimEnd());
  }
  return lines.join('\n');
}
