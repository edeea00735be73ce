import type { DataModule, DataPart } from '@shoal/benchmark';
import { seededRandom } from '@shoal/core';
import { comfortCities, preparedVotes, pullDataset } from '@shoal/datasets';
import { concatenateTasks } from '@shoal/lib';

/** Cities of the database with many votes, and a target that belongs to its rows. */
const CITIES = [
  'chennai',
  'honolulu',
  'hyderabad',
  'florianopolis',
  'jaipur',
  'san francisco',
  'ahmedabad',
  'maceio',
  'berkeley',
  'athens',
  'shimla',
  'ottawa',
  'sydney',
  'delhi',
  'porto',
  'bangalore',
  'harbin',
  'bangkok',
  'london',
  'karlsruhe',
];

function together(cities: readonly DataPart[]): DataPart {
  return {
    name: `${cities.length} cities`,
    train: concatenateTasks(cities.map((c) => c.train)),
    test: concatenateTasks(cities.map((c) => c.test)),
  };
}

/**
 * What people in offices and homes would like changed: some cities at once, then one after another in an
 * order of the seed. Simulated votes, or the ASHRAE database with whole groups (a person, a day) held out.
 */
const cities: DataModule<{ source?: string; first?: number; most?: number }> = async (
  { source = 'generated', first = 1, most = 900 },
  { seed },
) => {
  const found = await comfortCities(source, { names: CITIES, mostVotes: most });
  const all = found.ofSeed(seed).map(({ name, train, test }) => ({
    name,
    train: preparedVotes(train, found.columns),
    test: preparedVotes(test, found.columns),
  }));
  const order = seededRandom(seed).fork('arrival').permutation(all.length);
  const arriving = Array.from(order, (i) => all[i]).filter((c) => c !== undefined);
  if (first < 2) return { tasks: arriving };
  return { tasks: [together(arriving.slice(0, first)), ...arriving.slice(first)] };
};

export default cities;

/** Files the real data is read from. */
export async function sources({ source }: { readonly source?: string }): Promise<string[]> {
  return source === 'ashrae' ? [(await pullDataset('thermal-comfort')).folder] : [];
}
