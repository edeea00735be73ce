export {
  type ComfortCities,
  type ComfortCity,
  comfortCities,
  comfortLines,
  preparedVotes,
  preparedWidth,
} from './comfort-cities.ts';
export { type ComfortRows, comfortRows, PREFERENCES } from './comfort-rows.ts';
export {
  CLIMATES,
  type Climate,
  COMFORT_COLUMNS,
  type SimulatedVotes,
  simulateVotes,
} from './comfort-simulator.ts';
export { parseCsv, type TextTable } from './csv.ts';
export { augmented, type DigitSplit, digitData, driftPixels } from './digit-sets.ts';
export { DIGIT_SHAPE, type DigitOptions, type Drift, drawDigit, generateDigits } from './digits.ts';
export { type Hospital, readHeartDisease } from './heart-disease.ts';
export { generateHospitals, HEART_FEATURES, type HeartRow, heartRows } from './heart-rows.ts';
export {
  cacheFolder,
  datasetEntry,
  type Located,
  locateDataset,
  pullDataset,
  searchFolders,
} from './locate.ts';
export { DATASETS, type DatasetEntry, type DatasetFile } from './manifest.ts';
export { readMnist } from './mnist.ts';
export { DIGIT_MOUNTINGS, type DigitMounting, mountedDigits } from './mounted-digits.ts';
export { predictedMeanVote, type ThermalConditions } from './predicted-mean-vote.ts';
export { readThermalComfort, type ThermalComfort } from './thermal-comfort.ts';
