import { loadRows } from './thermal-comfort/data.ts';
import { sequenceOfCities } from './thermal-comfort/sequence.ts';

const rows = loadRows();
for (const seed of process.argv.slice(2).map(Number)) {
  console.log(
    seed,
    Object.entries(await sequenceOfCities(rows, seed))
      .map(([k, v]) => k + ' ' + v.accuracy.toFixed(4))
      .join('  '),
  );
}
