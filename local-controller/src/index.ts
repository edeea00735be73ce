export {
  type Config as LocalControllerConfig,
  readSettings as readLocalControllerSettings,
} from './operator/config.ts';
export { type Operator, startOperator } from './operator/operator.ts';
