export {
  type ApiServer,
  type ApiServerOptions,
  startApiServer,
} from './api-server.ts';
export { clusterAuthority, serverCertificate } from './authority.ts';
export { ApiClient, type ClientOptions, type WatchEvent } from './client/api-client.ts';
export { type ReflectorOptions, reflect } from './client/reflector.ts';
export { type KubeconfigOptions, renderKubeconfig } from './kubeconfig.ts';
export { type AgentOptions, NodeAgent } from './node-agent/agent.ts';
export type { ImageSource } from './node-agent/process-runtime.ts';
export type { ApiObject, Metadata } from './object.ts';
export type { TokenTable } from './server/authenticate.ts';
