import { benchmarkSuites } from './benchmark-suites.ts';
import { browserParticipants } from './browser-participants.ts';
import { containerRuntime } from './container-runtime.ts';
import { flowerOracle } from './flower-oracle.ts';
import { fullDisk } from './full-disk.ts';
import { isolatedEdge } from './isolated-edge.ts';
import { kubectlSession } from './kubectl-session.ts';
import { managerAccess } from './manager-access.ts';
import { findMinio, objectStorage } from './object-storage.ts';
import { onnxConsumers } from './onnx-consumers.ts';
import type { Outcome } from './outcome.ts';
import { sednaClient } from './sedna-client.ts';
import { simulation } from './simulation.ts';
import { torchOracle } from './torch-oracle.ts';

/**
 * `npm run test:real`: the tests that need tools a fresh machine may not have. What is missing is
 * skipped loudly; what is there must pass.
 */
// Built beside the other tests when it has to be.
const minio = findMinio();
const simulated = simulation();
const outcomes: Outcome[] = [
  ...(await kubectlSession()),
  ...(await containerRuntime()),
  ...(await isolatedEdge()),
  ...(await fullDisk()),
  ...(await onnxConsumers()),
  ...(await sednaClient()),
  ...(await torchOracle()),
  ...flowerOracle(),
  ...(await browserParticipants()),
  ...(await benchmarkSuites()),
  ...(await objectStorage(minio)),
  ...(await simulated),
  ...managerAccess(),
];
let failed = 0;
for (const { name, result, detail } of outcomes) {
  if (result === 'failed') failed++;
  const mark = { passed: 'ok     ', failed: 'FAILED ', skipped: 'SKIPPED' }[result];
  console.log(
    `${mark} ${name}${detail ? `\n        ${detail.replaceAll('\n', '\n        ')}` : ''}`,
  );
}
const count = (result: Outcome['result']): number =>
  outcomes.filter((o) => o.result === result).length;
if (count('skipped') > 0)
  console.log(
    `\n!!! ${count('skipped')} SKIPPED, see above: what they need is not on this machine`,
  );
console.log(`${count('passed')} passed, ${failed} failed, ${count('skipped')} skipped`);
process.exitCode = failed > 0 ? 1 : 0;
