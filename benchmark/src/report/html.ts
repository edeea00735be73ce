import { textOf } from '../config/config-node.ts';
import { rowName } from '../rank/compare.ts';
import type { Leaderboard, LeaderboardRow } from '../rank/leaderboard.ts';
import type { Provenance } from '../runs/provenance.ts';
import { escaped, heatMap, lines, type Point, type Series, scatter } from './charts.ts';
import { LEGEND, tableOf, titleOf } from './format.ts';
import { unfinished } from './text-files.ts';

const STYLE = `
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.2rem}
table{border-collapse:collapse;display:block;overflow-x:auto}
th,td{padding:.35rem .7rem;border-bottom:1px solid #8884;text-align:left;white-space:nowrap}
td.number{text-align:right;font-variant-numeric:tabular-nums}
th button{all:unset;cursor:pointer;font-weight:600}th button:focus-visible{outline:2px solid #0057b8}
th[aria-sort=ascending] button::after{content:" ▲"}th[aria-sort=descending] button::after{content:" ▼"}
tr.bound{opacity:.7;font-style:italic}
figure{margin:1.2rem 0;overflow-x:auto}svg{font:12px system-ui,sans-serif;background:#fff;color:#222;fill:#222}
svg .title{font-size:14px;font-weight:600}svg .grid{stroke:#ddd}svg .pareto{fill:none;stroke:#888;stroke-dasharray:5 4}
svg .own{stroke:#222;stroke-width:2}svg .front{stroke:#222;stroke-width:2}
details{margin:1rem 0}dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{opacity:.7}dd{margin:0}
.failed{color:#b3261e}`;

// Sorts by the number or text that a cell carries; a second click turns the order round.
const SCRIPT = `
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.querySelectorAll('th')];
  for (const [column, head] of heads.entries()) {
    head.querySelector('button').addEventListener('click', () => {
      const up = head.getAttribute('aria-sort') !== 'ascending';
      for (const other of heads) other.removeAttribute('aria-sort');
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const body = table.tBodies[0];
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === '' || y === '') return x === y ? 0 : x === '' ? 1 : -1;
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return up ? order : -order;
      });
      body.append(...rows);
    });
  }
}`;

/** Values by which the columns of a row are sorted: numbers where there are some. */
function keysOf(board: Leaderboard, row: LeaderboardRow): (string | number)[] {
  return [
    row.rank ?? '',
    row.algorithm,
    ...board.hyperparameters.map((name) => {
      const value = row.hyperparameters[name];
      return typeof value === 'number' ? value : textOf(value);
    }),
    ...board.metrics.map((m) => row.estimates[m.name]?.mean ?? ''),
    row.records.length - row.failed,
  ];
}

function tableHtml(board: Leaderboard): string {
  const [head = [], ...rows] = tableOf(board);
  const heads = head.map(
    (h) => `<th scope="col"><button type="button">${escaped(h)}</button></th>`,
  );
  const body = rows.map((cells, i) => {
    const row = board.rows[i];
    const keys = row ? keysOf(board, row) : [];
    const own = cells.map((text, c) => {
      const isNumber = typeof keys[c] === 'number';
      return `<td data-value="${escaped(String(keys[c] ?? ''))}"${isNumber ? ' class="number"' : ''}>${escaped(text)}</td>`;
    });
    return `<tr${row?.isBaseline ? ' class="bound"' : ''}>${own.join('')}</tr>`;
  });
  return `<table class="sortable"><thead><tr>${heads.join('')}</tr></thead><tbody>${body.join('')}</tbody></table>`;
}

/** The mean course of a row over its seeds, point by point. */
function courseOf(row: LeaderboardRow): Series | undefined {
  const curves = row.records.map((r) => r.outcome?.curve ?? []).filter((c) => c.length > 0);
  const length = Math.min(...curves.map((c) => c.length));
  if (curves.length === 0 || length < 2) return undefined;
  const points = Array.from({ length }, (_, i) => ({
    x: curves[0]?.[i]?.step ?? i,
    y: (curves.reduce((sum, c) => sum + (c[i]?.value ?? 0), 0) / curves.length) * 100,
  }));
  return { name: rowName(row), points };
}

function spentOf(row: LeaderboardRow): Point | undefined {
  const accuracy = row.estimates['accuracy'] ?? row.estimates['acc'];
  const [up, down] = [row.estimates['bytes_up'], row.estimates['bytes_down']];
  if (!accuracy || !up) return undefined;
  const [x, y] = [up.mean + (down?.mean ?? 0), accuracy.mean * 100];
  return { x, y, label: rowName(row), isBound: row.isBaseline };
}

/** R averaged over the seeds; undefined where parts of it are missing. */
function meanMatrix(row: LeaderboardRow): (readonly number[])[] | undefined {
  const matrices = row.records.flatMap((r) => (r.outcome?.matrix ? [r.outcome.matrix] : []));
  const [first] = matrices;
  if (!first || matrices.some((m) => m.flat().includes(null))) return undefined;
  return first.map((r, i) =>
    r.map((_, j) => matrices.reduce((sum, m) => sum + (m[i]?.[j] ?? 0), 0) / matrices.length),
  );
}

function figures(board: Leaderboard): string {
  const courses = board.rows.flatMap((r) => courseOf(r) ?? []);
  const spent = board.rows.flatMap((r) => spentOf(r) ?? []);
  const shown: string[] = [];
  if (courses.length > 0)
    shown.push(lines({ title: 'Course of the accuracy', x: 'step', y: '%' }, courses));
  if (spent.length > 1)
    shown.push(
      scatter(
        { title: 'Accuracy against bytes that travelled', x: 'bytes up and down', y: '%' },
        spent,
      ),
    );
  for (const row of board.rows) {
    const matrix = meanMatrix(row);
    const names = row.records.find((r) => r.outcome?.taskNames)?.outcome?.taskNames ?? [];
    if (matrix) shown.push(heatMap(`R[i][j] in %, ${rowName(row)}`, names, matrix));
  }
  return shown.map((picture) => `<figure>${picture}</figure>`).join('\n');
}

function failures(board: Leaderboard): string {
  const failed = board.rows.flatMap((row) => row.records.filter((r) => r.state !== 'done'));
  if (failed.length === 0) return '';
  const items = failed.map(
    (r) =>
      `<li class="failed">${escaped(r.planned.algorithm.name)}, seed ${r.planned.seed}: ${escaped(r.error ?? r.state)}</li>`,
  );
  return `<h3>Cases without a result</h3><ul>${items.join('')}</ul>`;
}

function originOf(boards: readonly Leaderboard[], provenance: Provenance): string {
  const { seeds, ...rest } = provenance;
  const facts = [...Object.entries(rest), ['seeds', seeds.join(', ')] as const].map(
    ([k, v]) => `<dt>${escaped(k)}</dt><dd>${escaped(String(v))}</dd>`,
  );
  const rows = boards.flatMap((b) => b.rows.flatMap((r) => r.records));
  const cases = rows.map(
    ({ id, planned }) =>
      `<tr><td>${id}</td><td>${escaped(planned.algorithm.name)}</td><td>${planned.seed}</td><td>${planned.digests.configuration}</td><td>${planned.digests.code}</td><td>${escaped(planned.digests.data.slice(0, 16))}</td></tr>`,
  );
  return `<h2>Where this comes from</h2><dl>${facts.join('')}</dl><details><summary>${rows.length} cases and their hashes</summary><table><thead><tr><th>case</th><th>algorithm</th><th>seed</th><th>configuration</th><th>code</th><th>data</th></tr></thead><tbody>${cases.join('')}</tbody></table></details>`;
}

/** One file with everything in it: tables that sort, plots, and where the results come from. */
export function toHtml(
  job: string,
  boards: readonly Leaderboard[],
  provenance: Provenance,
  missing = 0,
): string {
  const warning = missing === 0 ? '' : `<p><strong>${unfinished(missing)}</strong></p>`;
  const sections = boards.map(
    (board) =>
      `<section><h2>${escaped(titleOf(job, board))}</h2>${tableHtml(board)}<p>${escaped(LEGEND)}</p>${failures(board)}${figures(board)}</section>`,
  );
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>${escaped(job)}: leaderboard</title><style>${STYLE}</style></head>
<body><h1>${escaped(job)}</h1>${warning}${sections.join('\n')}${originOf(boards, provenance)}
<script>${SCRIPT}</script></body></html>
`;
}
