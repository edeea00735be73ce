import { existsSync, readFileSync } from 'node:fs';
import { Trainer } from '../src/index.ts';

/**
 * Opens the model of a file, takes a few steps, writes it, and prints the most memory the process ever held, resident, in MiB:
 * the kernel's own count where there is one (Linux), the largest seen after a step elsewhere.
 */
const [file = '', width = '0', batchSize = '0', optimizer = 'sgd'] = process.argv.slice(2);
const STATUS = '/proc/self/status';

function peakMiB(): number {
  if (!existsSync(STATUS)) return process.memoryUsage.rss() / 2 ** 20;
  const [, kib = '0'] = /VmHWM:\s+(\d+)/.exec(readFileSync(STATUS, 'utf8')) ?? [];
  return Number(kib) / 1024;
}

const trainer = await Trainer.create({
  model: file,
  loss: 'mean-squared-error',
  optimizer: { name: optimizer as 'sgd', learningRate: 1e-4 },
});
const opened = peakMiB();
const size = Number(batchSize);
const values = (): Float32Array => new Float32Array(size * Number(width)).fill(0.1);
let peak = opened;
for (let i = 0; i < 10; i++) {
  await trainer.step({ inputs: values(), targets: values(), size });
  peak = Math.max(peak, peakMiB());
}
trainer.deployTo(`${file}.trained`);
const written = Math.max(peak, peakMiB());
await trainer.release();
console.log(JSON.stringify({ opened, peak, written }));
