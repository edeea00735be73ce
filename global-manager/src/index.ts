export { edgeAuthority, issueNodeCertificate } from './edge-link/authority.ts';
export { ClientNodeApi } from './kube/client-node.ts';
export {
  type Config as GlobalManagerConfig,
  readSettings as readGlobalManagerSettings,
} from './operator/config.ts';
export { type Operator, startOperator } from './operator/operator.ts';
