// What is simulated: the cores of both ends of EdgeLink, as they run in production.
export { CloudStore } from '../../global-manager/src/edge-link/cloud-store.ts';
export { Feed } from '../../global-manager/src/edge-link/feed.ts';
export { LinkHub } from '../../global-manager/src/edge-link/hub.ts';
export { Records } from '../../global-manager/src/edge-link/records.ts';
export type { Session } from '../../global-manager/src/edge-link/session.ts';
export { Link } from '../../local-controller/src/link/link.ts';
export type { Connection, EdgeTransport } from '../../local-controller/src/link/transport.ts';
export { EdgeDatabase } from '../../local-controller/src/store/database.ts';
