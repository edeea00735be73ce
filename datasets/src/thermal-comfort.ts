import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { parseCsv, type TextTable } from './csv.ts';

/** ASHRAE Global Thermal Comfort Database II: votes, and the buildings they were cast in. */
export interface ThermalComfort {
  /** One row per vote. */
  readonly votes: TextTable;
  /** One row per building; join on `building_id`. */
  readonly buildings: TextTable;
}

/** Reads the database from the folder of `pullDataset('thermal-comfort')`; missing values are empty. */
export function readThermalComfort(folder: string): ThermalComfort {
  const votes = 'db_measurements_v2.1.0.csv.gz';
  const buildings = 'db_metadata.csv';
  return {
    votes: parseCsv(gunzipSync(readFileSync(join(folder, votes))).toString('utf8'), votes),
    buildings: parseCsv(readFileSync(join(folder, buildings), 'utf8'), buildings),
  };
}
