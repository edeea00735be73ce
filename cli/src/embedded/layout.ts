import { join, resolve } from 'node:path';

/** Where an embedded cluster keeps its files: everything below one folder. */
export interface Layout {
  readonly root: string;
  readonly kubeconfig: string;
  readonly stateFile: string;
  readonly lockFile: string;
  readonly serverDir: string;
  readonly managerDir: string;
  /** How the global manager reaches the API server: with its own account, not as admin. */
  readonly managerKubeconfig: string;
  readonly knowledgeBaseDir: string;
  readonly logDir: string;
  readonly nodeDir: (node: string) => string;
  readonly rootfs: (node: string) => string;
  readonly controllerDir: (node: string) => string;
}

/** Layout of the cluster that belongs to a folder (`<folder>/.shoal`). */
export function layoutOf(folder: string): Layout {
  const root = join(resolve(folder), '.shoal');
  const nodeDir = (node: string): string => join(root, 'nodes', node);
  return {
    root,
    kubeconfig: join(root, 'kubeconfig'),
    stateFile: join(root, 'state.json'),
    lockFile: join(root, 'lock.json'),
    serverDir: join(root, 'server'),
    managerDir: join(root, 'global-manager'),
    managerKubeconfig: join(root, 'global-manager', 'kubeconfig'),
    knowledgeBaseDir: join(root, 'knowledge-base'),
    logDir: join(root, 'logs'),
    nodeDir,
    rootfs: (node) => join(nodeDir(node), 'rootfs'),
    controllerDir: (node) => join(nodeDir(node), 'local-controller'),
  };
}

/** What a running cluster tells others about itself. */
export interface ClusterState {
  readonly pid: number;
  readonly server: string;
  readonly authority: string;
  readonly token: string;
  readonly managerUrl: string;
  /** `host:port` of the knowledge base. */
  readonly knowledgeBase: string;
  /** `host:port` of the sample service, for those who label. */
  readonly samples: string;
  /** `host:port` where machines join, and operators ask. */
  readonly fleet: string;
  /** `host:port` where edges connect. */
  readonly edgeLink: string;
  readonly cloudNode: string;
  readonly edgeNodes: readonly string[];
  readonly startedAt: string;
}
