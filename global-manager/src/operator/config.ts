import {
  choice,
  flag,
  integer,
  LOG_LEVELS,
  type LogLevel,
  readConfig,
  type SettingTable,
  text,
} from '@shoal/core';

/** Settings of the global manager; every variable begins with `SHOAL_GM_`. */
export interface Config {
  readonly SHOAL_GM_KUBECONFIG: string;
  readonly SHOAL_GM_DATA_DIR: string;
  readonly SHOAL_GM_EDGE_LINK_ADDRESS: string;
  readonly SHOAL_GM_FLEET_ADDRESS: string;
  readonly SHOAL_GM_HTTP_ADDRESS: string;
  readonly SHOAL_GM_HTTP_PORT: number;
  readonly SHOAL_GM_LC_SERVER: string;
  readonly SHOAL_GM_INITIALIZER_IMAGE: string;
  readonly SHOAL_GM_KB_SERVER: string;
  readonly SHOAL_GM_KB_KEY_FILE: string;
  readonly SHOAL_GM_SAMPLES_ADDRESS: string;
  readonly SHOAL_GM_SAMPLES_SERVER: string;
  readonly SHOAL_GM_LEASE: string;
  readonly SHOAL_GM_IDENTITY: string;
  readonly SHOAL_GM_KUBE_LINK: boolean;
  readonly SHOAL_GM_LOG_LEVEL: LogLevel;
}

export const SETTINGS: SettingTable<Config> = {
  SHOAL_GM_KUBECONFIG: text(
    'kubeconfig file; empty: the usual places, or the pod’s own account',
    '',
  ),
  SHOAL_GM_DATA_DIR: text(
    'folder for the feed, blobs and the EdgeLink authority',
    '/var/lib/shoal',
  ),
  SHOAL_GM_EDGE_LINK_ADDRESS: text('host:port where edges connect', '0.0.0.0:9000'),
  SHOAL_GM_FLEET_ADDRESS: text('host:port where machines join, and operators ask', '0.0.0.0:9001'),
  SHOAL_GM_HTTP_ADDRESS: text('host for /healthz, /readyz and /metrics', '0.0.0.0'),
  SHOAL_GM_HTTP_PORT: integer('port for them', { min: 0, max: 65_535 }, 9080),
  SHOAL_GM_LC_SERVER: text(
    'LC_SERVER of workers; $(HOST_IP) is the worker’s node',
    'http://$(HOST_IP):9100',
  ),
  SHOAL_GM_INITIALIZER_IMAGE: text(
    'image that fetches remote models and data',
    'shoal/workers:0.1.0',
  ),
  SHOAL_GM_KB_SERVER: text('KB_SERVER of workers: host:port of the knowledge base', 'kb:9020'),
  SHOAL_GM_KB_KEY_FILE: text(
    'file with the key shared with the knowledge base; empty: knowledge-base.key in the data folder, made when missing',
    '',
  ),
  SHOAL_GM_SAMPLES_ADDRESS: text(
    'host:port of the sample service, for those who label',
    '0.0.0.0:9010',
  ),
  SHOAL_GM_SAMPLES_SERVER: text(
    'SAMPLES_SERVER of workers: that service as they reach it',
    'gm:9010',
  ),
  SHOAL_GM_LEASE: text(
    'namespace/name of the Lease that several managers over one data folder share; empty: this is the only one',
    '',
  ),
  SHOAL_GM_IDENTITY: text('name of this replica; empty: the host’s', ''),
  SHOAL_GM_KUBE_LINK: flag(
    'whether nodes labelled shoal.dev/link=kubernetes are reached through the API server',
    false,
  ),
  SHOAL_GM_LOG_LEVEL: choice('least severe log level', LOG_LEVELS, 'info'),
};

/** @throws ShoalError `invalid_argument` listing every fault at once. */
export function readSettings(source: Readonly<Record<string, string | undefined>>): Config {
  return readConfig(SETTINGS, source, { prefix: 'SHOAL_GM_' });
}
