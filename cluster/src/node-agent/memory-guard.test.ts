import { expect, test } from 'vitest';
import { MemoryGuard } from './memory-guard.ts';
import type { Usage } from './usage.ts';

test('a container beyond its limit is told of once, others and ended ones are not', () => {
  const usage = new Map<number, Usage>();
  const use = (pid: number, memoryBytes: number): unknown =>
    usage.set(pid, { cpuSeconds: 0, memoryBytes, pids: [pid] });
  const guard = new MemoryGuard(() => usage);
  const exceeded: number[] = [];
  const watch = (pid: number): (() => void) =>
    guard.watch({ pid, limitBytes: 100, onExceeded: () => exceeded.push(pid) });
  const [stop1, stop2] = [watch(1), watch(2), watch(3)];
  use(1, 100);
  use(2, 101);
  guard.check();
  expect(exceeded).toEqual([2]);
  stop1?.();
  use(1, 200);
  guard.check();
  stop2?.();
  expect(exceeded).toEqual([2]);
});
