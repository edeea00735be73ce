import { planJob, runJob } from '../src/index.ts';

// Runs a job; somebody kills this process in the middle.
const [job = '', folder = ''] = process.argv.slice(2);
await runJob(await planJob(job), {
  folder,
  signal: new AbortController().signal,
  onCase: ({ kind, done }) => {
    if (kind === 'ended') process.stdout.write(`${done}\n`);
  },
});
