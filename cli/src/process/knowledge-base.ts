import { knowledgeBaseWorker, runWorker } from '@shoal/workers';

// Ends with its supervisor as on SIGTERM.
process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'));
await runWorker('knowledge-base', knowledgeBaseWorker);
process.exit();
