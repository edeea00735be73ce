import { has, run } from './outcome.ts';

const PROGRAMS = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];
const INSTALL_MS = 400_000;

/** The path of a Chromium: `CHROMIUM`, one that is installed, or Debian's; undefined when there is none. */
export function findChromium(): string | undefined {
  const given = process.env['CHROMIUM'];
  if (given) return given;
  const find = (): string | undefined =>
    PROGRAMS.map((p) => run('sh', ['-c', `command -v ${p}`]).stdout.trim()).find((p) => p !== '');
  const found = find();
  if (found || process.getuid?.() !== 0 || !has('apt-get', '--version')) return found;
  const install = 'apt-get install -y --no-install-recommends chromium';
  run('sh', ['-c', `${install} || (apt-get update && ${install})`], {
    timeoutMs: INSTALL_MS,
    env: { DEBIAN_FRONTEND: 'noninteractive' },
  });
  return find();
}
