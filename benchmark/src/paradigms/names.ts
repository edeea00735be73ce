/** Bounds the suite itself knows beside the strategies of the library. */
export const POOLED = 'pooled';
export const LOCAL = 'local';
export const ORACLE = 'OracleRouter';
/** Ways of lifelong learning that are no strategy of one model. */
export const KNOWLEDGE_BASE = 'knowledge-base';
export const JOINT = 'joint';
export const FIRST_ONLY = 'first-task-only';
