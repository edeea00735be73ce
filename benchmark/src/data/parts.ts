import { concatenateTasks, selectTask } from '@shoal/lib';
import type { BenchmarkSamples } from './benchmark-data.ts';

/** The samples at the given positions. */
export function pick(samples: BenchmarkSamples, positions: ArrayLike<number>): BenchmarkSamples {
  const chosen = selectTask(samples, positions);
  const { targets, targetWidth = 1 } = samples;
  if (!targets) return chosen;
  const own = new Float32Array(positions.length * targetWidth);
  for (let i = 0; i < positions.length; i++) {
    const from = (positions[i] ?? 0) * targetWidth;
    own.set(targets.subarray(from, from + targetWidth), i * targetWidth);
  }
  return { ...chosen, targets: own, targetWidth };
}

/** One set after another. */
export function join(parts: readonly BenchmarkSamples[]): BenchmarkSamples {
  const all = concatenateTasks(parts);
  if (!parts.every((p) => p.targets)) return all;
  const targets = new Float32Array(parts.reduce((n, p) => n + (p.targets?.length ?? 0), 0));
  let at = 0;
  for (const p of parts) {
    targets.set(p.targets ?? [], at);
    at += p.targets?.length ?? 0;
  }
  return { ...all, targets, targetWidth: parts[0]?.targetWidth ?? 1 };
}
