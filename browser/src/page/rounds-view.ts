import type { RoundSummary } from '@shoal/lib/participant';
import { element } from './dom.ts';

const WIDTH = 480;
const HEIGHT = 160;
const LEFT = 40;
const BOTTOM = 20;
const TOP = 10;

const percent = (share: number | undefined): string =>
  share === undefined ? '–' : `${(share * 100).toFixed(1)} %`;

/** A line of accuracy by round, as the inside of an SVG of 480 × 160. */
export function accuracyPlot(history: readonly RoundSummary[]): string {
  const values = history.map((h) => h.metrics['accuracy'] ?? 0);
  const step = (WIDTH - LEFT - 10) / Math.max(1, values.length - 1);
  const y = (v: number): number => HEIGHT - BOTTOM - v * (HEIGHT - BOTTOM - TOP);
  const points = values.map((v, i) => `${(LEFT + i * step).toFixed(1)},${y(v).toFixed(1)}`);
  const grid = [0, 0.5, 1].map(
    (v) =>
      `<line x1="${LEFT}" x2="${WIDTH - 10}" y1="${y(v)}" y2="${y(v)}"/><text x="0" y="${y(v) + 4}">${v * 100} %</text>`,
  );
  return `${grid.join('')}<polyline points="${points.join(' ')}"/>`;
}

/** Shows the rounds so far. */
export function showRounds(history: readonly RoundSummary[]): void {
  if (history.length === 0) return;
  const rows = history.map(({ round, participants, metrics }) => {
    const loss = metrics['loss']?.toFixed(4) ?? '–';
    return `<tr><td>${Number(round)}</td><td>${Number(participants)}</td><td>${loss}</td><td>${percent(metrics['accuracy'])}</td></tr>`;
  });
  element('#rounds').hidden = false;
  element('#rounds tbody').innerHTML = rows.join('');
  element('#plot').hidden = false;
  element('#plot').innerHTML = accuracyPlot(history);
}
