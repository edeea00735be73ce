import { readImageLines } from '@shoal/lib';
import { participateWorker, runWorker } from '@shoal/workers';

/** A participant's side: how samples are read is all it has to say. */
await runWorker('participant', async (context) => {
  const read = (path: string): ReturnType<typeof readImageLines> =>
    readImageLines(path, [1, 28, 28]);
  return await participateWorker({ read, threads: 1 }, context);
});
