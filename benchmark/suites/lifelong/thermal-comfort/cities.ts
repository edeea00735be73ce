import type { DataModule } from '@shoal/benchmark';
import { comfortCities, locateDataset, preparedVotes } from '@shoal/datasets';

/** Cities of the database with many votes and a target that belongs to its rows. */
const CITIES = [
  'chennai',
  'honolulu',
  'hyderabad',
  'florianopolis',
  'jaipur',
  'san francisco',
  'ahmedabad',
  'maceio',
  'athens',
  'ottawa',
  'sydney',
  'delhi',
  'porto',
  'bangkok',
  'harbin',
  'london',
];

/**
 * What people in offices and homes would like changed, city after city: simulated votes, or the ASHRAE
 * database with whole groups (a person, a day) held out.
 */
const cities: DataModule<{ source?: string; most?: number }> = async (
  { source = 'generated', most = 900 },
  { seed },
) => {
  const found = await comfortCities(source, { names: CITIES, mostVotes: most });
  return {
    tasks: found.ofSeed(seed).map(({ name, train, test }) => ({
      name,
      train: preparedVotes(train, found.columns),
      test: preparedVotes(test, found.columns),
    })),
  };
};

export default cities;

/** Files the real data is read from. */
export function sources({ source }: { readonly source?: string }): string[] {
  const located = source === 'ashrae' ? locateDataset('thermal-comfort') : undefined;
  return located ? [located.folder] : [];
}
