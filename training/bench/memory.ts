import { spawnSync } from 'node:child_process';
import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { seededRandom } from '@shoal/core';
import { dense, relu, sequential } from '../src/index.ts';

/** What training a model takes beyond what a process that trains next to nothing takes. */
export interface Memory {
  readonly name: string;
  readonly optimizer: string;
  readonly parametersMiB: number;
  /** Most while opening the file, most until ten steps were taken; the process itself taken off. */
  readonly openedMiB: number;
  readonly peakMiB: number;
  /** Most until the trained model was written to a file. */
  readonly writtenMiB: number;
}

interface Peaks {
  readonly opened: number;
  readonly peak: number;
  readonly written: number;
}

const BATCH = 16;
const child = join(import.meta.dirname, 'memory-child.ts');

function measure(file: string, width: number, optimizer: string): Peaks {
  const args = [child, file, String(width), String(BATCH), optimizer];
  const { stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  if (stdout === '') throw new Error(`memory-child.ts failed: ${stderr.slice(-500)}`);
  return JSON.parse(stdout) as Peaks;
}

function write(file: string, width: number, layers: number): string {
  const all = Array.from({ length: layers }, () => [dense(width), relu()]).flat();
  writeFileSync(file, sequential({ input: [width], layers: all, random: seededRandom(1) }));
  return file;
}

/** Peak memory of training two models of 50 million parameters, one process each. */
export function memoryOfTraining(dir: string): Memory[] {
  const small = measure(write(join(dir, 'small.onnx'), 16, 2), 16, 'sgd');
  const wanted = [
    ['2 layers of 5000', 5000, 2, 'sgd'],
    ['12 layers of 2048', 2048, 12, 'sgd'],
    ['12 layers of 2048', 2048, 12, 'adam'],
  ] as const;
  return wanted.map(([name, width, layers, optimizer]) => {
    const file = write(join(dir, 'large.onnx'), width, layers);
    const { opened, peak, written } = measure(file, width, optimizer);
    return {
      name,
      optimizer,
      parametersMiB: statSync(file).size / 2 ** 20,
      openedMiB: opened - small.opened,
      peakMiB: peak - small.peak,
      writtenMiB: written - small.written,
    };
  });
}
