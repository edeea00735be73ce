export { join, type StoredIdentity, writeIdentity } from './link/identity.ts';
export {
  type Config as LocalControllerConfig,
  readSettings as readLocalControllerSettings,
} from './operator/config.ts';
export { type Operator, startLocalController, startOperator } from './operator/operator.ts';
