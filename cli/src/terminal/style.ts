import { styleText } from 'node:util';

type Format = Parameters<typeof styleText>[0];

/** Colours only on a terminal that wants them. */
export function styled(
  format: Format,
  text: string,
  stream: NodeJS.WriteStream = process.stdout,
): string {
  const wanted = stream.isTTY && process.env['NO_COLOR'] === undefined;
  return wanted ? styleText(format, text, { validateStream: false }) : text;
}
