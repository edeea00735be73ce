import type { TextTable } from './csv.ts';
import type { ThermalComfort } from './thermal-comfort.ts';

/** Votes on thermal preference as rows of features, ready for learning. */
export interface ComfortRows {
  /** `[size, names.length]`, in the units of the database; NaN is missing. */
  readonly inputs: Float32Array;
  readonly names: readonly string[];
  /** 0 cooler, 1 no change, 2 warmer. */
  readonly labels: BigInt64Array;
  /** Thermal sensation vote, −3 cold to 3 hot; NaN is missing. */
  readonly sensation: Float32Array;
  readonly cities: readonly string[];
  readonly seasons: readonly string[];
  /** Rows that must not be parted by a split: of one subject, building-day or block of 40 rows. */
  readonly groups: readonly string[];
  readonly size: number;
}

export const PREFERENCES: readonly string[] = ['cooler', 'no change', 'warmer'];

const SEASONS = ['winter', 'summer', 'hot/wet', 'cool/dry', 'autumn', 'spring'];
const COOLING = ['naturally ventilated', 'air conditioned', 'mixed mode'];
const BUILDINGS = ['office', 'multifamily housing', 'classroom', 'others', 'senior center'];
const BLOCK = 40;

const NAMES: readonly string[] = [
  'ta',
  'rh',
  'vel',
  'met',
  'clo',
  'radiant',
  'outdoor',
  'running mean outdoor',
  'age',
  'female',
  ...SEASONS,
  ...COOLING,
  ...BUILDINGS,
];

/** Reads a cell by column and row; a missing column is a missing value. */
type Cell = (column: string, row: number) => string;

function cellOf(table: TextTable): Cell {
  return (column, row) => table.get(column)?.[row] ?? '';
}

function numberOf(text: string): number {
  return text === '' ? Number.NaN : Number(text);
}

function firstOf(cell: Cell, columns: readonly string[], row: number): number {
  const found = columns.map((c) => cell(c, row)).find((v) => v !== '');
  return found === undefined ? Number.NaN : Number(found);
}

function oneHot(levels: readonly string[], value: string): number[] {
  return levels.map((level) => (levels.includes(value) ? Number(level === value) : Number.NaN));
}

function featuresOf(vote: Cell, building: Cell, at: { row: number; home: number }): number[] {
  const { row, home } = at;
  const gender = vote('gender', row);
  return [
    ...['ta', 'rh', 'vel', 'met', 'clo'].map((c) => numberOf(vote(c, row))),
    firstOf(vote, ['tr', 'top', 'tg'], row),
    firstOf(vote, ['t_out', 't_out_isd', 't_out_monthly'], row),
    numberOf(vote('t_mot_isd', row)),
    numberOf(vote('age', row)),
    gender === 'female' ? 1 : gender === 'male' ? 0 : Number.NaN,
    ...oneHot(SEASONS, vote('season', row)),
    ...oneHot(COOLING, building('cooling_type', home)),
    ...oneHot(BUILDINGS, building('building_type', home)),
  ];
}

/** Everything about a row but its numbering: equal texts are duplicates. */
function contentOf(votes: TextTable, row: number): string {
  return [...votes]
    .filter(([name]) => name !== 'index' && name !== 'record_id')
    .map(([, column]) => column[row])
    .join('\u0001');
}

/**
 * Labelled rows of the ASHRAE database with 24 ordinary features and no answer of the same
 * questionnaire among them. Full duplicates and buildings that failed the database's own quality
 * check are left out, Bengaluru is Bangalore, and San Ramon is dropped: its labels are swapped.
 */
export function comfortRows(database: ThermalComfort): ComfortRows {
  const vote = cellOf(database.votes);
  const building = cellOf(database.buildings);
  const ids = database.buildings.get('building_id') ?? [];
  const homes = new Map(ids.map((id, i) => [id, i]));
  const seen = new Set<string>();
  const blocks = new Map<string, number>();
  const rows: number[][] = [];
  const [labels, sensation]: [number[], number[]] = [[], []];
  const [cities, seasons, groups]: [string[], string[], string[]] = [[], [], []];
  const count = database.votes.get('building_id')?.length ?? 0;
  for (let row = 0; row < count; row++) {
    const label = PREFERENCES.indexOf(vote('thermal_preference', row));
    const id = vote('building_id', row);
    const home = homes.get(id) ?? -1;
    const city = building('city', home).replace('bengaluru', 'bangalore');
    if (label < 0 || building('quality_assurance', home) === 'fail' || city === 'san ramon')
      continue;
    const content = contentOf(database.votes, row);
    if (seen.has(content)) continue;
    seen.add(content);
    const [subject, day] = [vote('subject_id', row), vote('timestamp', row).slice(0, 10)];
    const block = blocks.get(id) ?? 0;
    blocks.set(id, block + 1);
    groups.push(
      `${id}/${subject || (day && `day ${day}`) || `block ${Math.floor(block / BLOCK)}`}`,
    );
    rows.push(featuresOf(vote, building, { row, home }));
    labels.push(label);
    sensation.push(numberOf(vote('thermal_sensation', row)));
    cities.push(city);
    seasons.push(vote('season', row) || 'unknown');
  }
  const inputs = new Float32Array(rows.length * NAMES.length);
  for (const [i, row] of rows.entries()) inputs.set(row, i * NAMES.length);
  return {
    inputs,
    names: NAMES,
    labels: BigInt64Array.from(labels, BigInt),
    sensation: Float32Array.from(sensation),
    cities,
    seasons,
    groups,
    size: rows.length,
  };
}
