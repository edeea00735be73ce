export { EXIT, exitCodeOf } from './exit-codes.ts';
export { aggregateWorker, participateWorker } from './federated-workers.ts';
export { ServedModel, type ServedModelOptions } from './hot-update-service.ts';
export {
  type InferenceServer,
  type InferenceServerOptions,
  serveInference,
} from './inference-server.ts';
export {
  evaluateTasksWorker,
  knowledgeBaseWorker,
  type LifelongParts,
  learnTasksWorker,
  lifelongInferWorker,
} from './lifelong-workers.ts';
export { runWorker, untilStopped, type WorkerContext } from './process.ts';
export {
  bigModelWorker,
  evaluateWorker,
  inferWorker,
  jointInferenceWorker,
  labelWorker,
  trainWorker,
  type WorkerParts,
} from './worker-kinds.ts';
