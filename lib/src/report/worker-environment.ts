import { integer, isJsonObject, type SettingTable, ShoalError, text } from '@shoal/core';
import type { MinerParameters } from '../hard-example/miner.ts';

/** Variables every worker gets from the global manager, by the names of the contract. */
export interface WorkerEnvironment {
  readonly NAMESPACE: string;
  readonly WORKER_NAME: string;
  readonly JOB_NAME: string;
  readonly LC_SERVER: string;
  readonly LC_PERIOD: number;
  readonly DATA_PATH_PREFIX: string;
  readonly MODEL_URL: string;
  readonly HEM_NAME: string;
  readonly HEM_PARAMETERS: string;
}

export const WORKER_SETTINGS: SettingTable<WorkerEnvironment> = {
  NAMESPACE: text('namespace of the job', 'default'),
  WORKER_NAME: text('name of this worker', 'worker'),
  JOB_NAME: text('name of the job or service', 'sedna'),
  LC_SERVER: text('URL of the local controller; empty when there is none', ''),
  LC_PERIOD: integer('seconds between reports of a service', { min: 1, max: 3600 }, 30),
  DATA_PATH_PREFIX: text('prefix of mounted host paths', '/home/data'),
  MODEL_URL: text('path of the model', ''),
  HEM_NAME: text('hard example mining algorithm', ''),
  HEM_PARAMETERS: text('its parameters, JSON [{"key", "value"}]', ''),
};

/**
 * Parses `HEM_PARAMETERS`: a JSON list of `{key, value}`, `null` for none.
 *
 * @throws ShoalError `invalid_argument` when it is something else.
 */
export function parseMinerParameters(json: string): MinerParameters {
  if (json === '') return {};
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw new ShoalError('invalid_argument', `HEM_PARAMETERS is not JSON: ${json}`, {
      cause: error,
    });
  }
  if (value === null) return {};
  if (!Array.isArray(value))
    throw new ShoalError('invalid_argument', 'HEM_PARAMETERS must be a list of {"key", "value"}');
  return Object.fromEntries(
    value.filter(isJsonObject).map((p) => [String(p['key']), String(p['value'])]),
  );
}
