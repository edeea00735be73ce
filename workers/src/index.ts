export { EXIT, exitCodeOf } from './exit-codes.ts';
export { ServedModel, type ServedModelOptions } from './hot-update-service.ts';
export {
  type InferenceServer,
  type InferenceServerOptions,
  serveInference,
} from './inference-server.ts';
export { runWorker, untilStopped, type WorkerContext } from './process.ts';
export {
  bigModelWorker,
  evaluateWorker,
  inferWorker,
  jointInferenceWorker,
  trainWorker,
  type WorkerParts,
} from './worker-kinds.ts';
