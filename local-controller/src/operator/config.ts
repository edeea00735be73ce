import {
  choice,
  integer,
  LOG_LEVELS,
  type LogLevel,
  readConfig,
  real,
  type SettingTable,
  text,
} from '@shoal/core';

/** Settings of the local controller; names of the contract where it has one. */
export interface Config {
  readonly GM_ADDRESS: string;
  readonly NODENAME: string;
  readonly ROOTFS_MOUNT_DIR: string;
  readonly BIND_ADDRESS: string;
  readonly BIND_PORT: number;
  readonly SHOAL_LC_DATA_DIR: string;
  readonly SHOAL_LC_TLS_FILE: string;
  readonly SHOAL_LC_TOKEN_FILE: string;
  readonly SHOAL_LC_FLEET_SERVER: string;
  readonly SHOAL_LC_POD_LOG_DIR: string;
  readonly SHOAL_LC_TRANSPORT: 'edge-link' | 'kubernetes';
  readonly SHOAL_LC_KUBECONFIG: string;
  readonly SHOAL_LC_POLL_MS: number;
  readonly SHOAL_LC_MAX_DATASET_BYTES: number;
  readonly SHOAL_LC_FIGURES_SECONDS: number;
  readonly SHOAL_LC_SOURCE_PLUGINS: string;
  readonly SHOAL_LC_LOG_LEVEL: LogLevel;
}

const SETTINGS: SettingTable<Config> = {
  GM_ADDRESS: text(
    'host:port of the global manager; may be empty with SHOAL_LC_TRANSPORT=kubernetes',
    '',
  ),
  NODENAME: text('name of this node'),
  ROOTFS_MOUNT_DIR: text('where the node’s file system is mounted', '/rootfs'),
  BIND_ADDRESS: text('address workers reach this process at', '0.0.0.0'),
  BIND_PORT: integer('port of the worker API', { min: 0, max: 65_535 }, 9100),
  SHOAL_LC_DATA_DIR: text('folder for the edge store and models', '/var/lib/shoal'),
  SHOAL_LC_TLS_FILE: text(
    'JSON file with certificate, privateKey and authority; written when this node joins',
  ),
  SHOAL_LC_TOKEN_FILE: text(
    'file with a join token, for a node that has no certificate yet; see: shoal token create',
    '',
  ),
  SHOAL_LC_FLEET_SERVER: text('host:port of the fleet service; empty: the one in the token', ''),
  SHOAL_LC_POD_LOG_DIR: text('folder with the logs of this node’s pods', '/var/log/pods'),
  SHOAL_LC_TRANSPORT: choice(
    'how this node reaches the cloud: its own connection, or a Kubernetes API server (KubeEdge’s at the edge)',
    ['edge-link', 'kubernetes'],
    'edge-link',
  ),
  SHOAL_LC_KUBECONFIG: text(
    'kubeconfig for the transport kubernetes; empty: the usual places, or the pod’s own account',
    '',
  ),
  SHOAL_LC_POLL_MS: integer(
    'how often datasets and jobs are looked at',
    { min: 50, max: 600_000 },
    1_000,
  ),
  SHOAL_LC_MAX_DATASET_BYTES: real(
    'largest remote dataset fetched, in bytes',
    { min: 1, max: 2 ** 50 },
    4 * 1024 ** 3,
  ),
  SHOAL_LC_FIGURES_SECONDS: integer(
    'how often the history of this node’s figures is noted, where they have changed',
    { min: 1, max: 86_400 },
    60,
  ),
  SHOAL_LC_SOURCE_PLUGINS: text(
    'module that exports sources of samples this node has of its own; empty: none',
    '',
  ),
  SHOAL_LC_LOG_LEVEL: choice('least severe log level', LOG_LEVELS, 'info'),
};

/** @throws ShoalError `invalid_argument` listing every fault at once. */
export function readSettings(source: Readonly<Record<string, string | undefined>>): Config {
  const isKubernetes = source['SHOAL_LC_TRANSPORT'] === 'kubernetes';
  const table = isKubernetes
    ? { ...SETTINGS, SHOAL_LC_TLS_FILE: text('as ever; only needed with GM_ADDRESS', '') }
    : { ...SETTINGS, GM_ADDRESS: text('host:port of the global manager') };
  return readConfig(table, source, { prefix: 'SHOAL_LC_' });
}
