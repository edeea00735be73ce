import { DATASETS, locateDataset, pullDataset } from '@shoal/datasets';
import { renderTable } from '../terminal/table.ts';

export function datasetListCommand(): void {
  const rows = DATASETS.map((d) => [
    d.name,
    d.title,
    d.licence,
    locateDataset(d.name)?.folder ?? 'not here (shoal dataset pull)',
  ]);
  process.stdout.write(`${renderTable([['NAME', 'WHAT', 'LICENCE', 'WHERE'], ...rows])}\n`);
}

export async function datasetPullCommand(name: string): Promise<void> {
  const { folder, entry } = await pullDataset(name);
  process.stdout.write(`${entry.title}: ${folder}\n`);
}
