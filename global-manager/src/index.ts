// The manager runs as a process of its own (operator/main.ts); this door is for those who set one
// up, and stays free of what only the process needs.
export {
  type AccessRule,
  MANAGER_ACCOUNT,
  MANAGER_NAMESPACE,
  MANAGER_RULES,
  managerAccess,
} from './access.ts';
export {
  edgeAuthority,
  fleetKey,
  issueKnowledgeBaseCertificate,
  knowledgeBaseKey,
} from './edge-link/authority.ts';
export { createJoinToken } from './edge-link/node-registry.ts';
