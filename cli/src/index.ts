export { connectTo } from './commands/context.ts';
export { type ResourceInfo, Resources } from './commands/resources.ts';
export { EmbeddedCluster, type EmbeddedOptions } from './embedded/embedded-cluster.ts';
export { type ClusterState, type Layout, layoutOf } from './embedded/layout.ts';
