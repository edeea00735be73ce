import { existsSync, readFileSync } from 'node:fs';
import type { Measurements } from '../paradigms/observations.ts';

const ENERGY = '/sys/class/powercap/intel-rapl:0/energy_uj';
const ENERGY_RANGE = '/sys/class/powercap/intel-rapl:0/max_energy_range_uj';

function microjoules(path: string): number | undefined {
  try {
    return existsSync(path) ? Number(readFileSync(path, 'utf8')) : undefined;
  } catch {
    // Readable by root only on most machines.
    return undefined;
  }
}

/** Begins to measure; what it returns tells what was used since. */
export function measure(): () => Measurements {
  const [startedAt, energy] = [performance.now(), microjoules(ENERGY)];
  return () => {
    const { userCPUTime, systemCPUTime, maxRSS } = process.resourceUsage();
    const now = microjoules(ENERGY);
    // The counter of the whole package begins anew at its range.
    const used =
      energy === undefined || now === undefined
        ? undefined
        : (now >= energy ? now - energy : now + (microjoules(ENERGY_RANGE) ?? 0) - energy) / 1e6;
    return {
      wallSeconds: (performance.now() - startedAt) / 1000,
      cpuSeconds: (userCPUTime + systemCPUTime) / 1e6,
      peakMemoryBytes: maxRSS * 1024,
      ...(used === undefined ? {} : { energyJoules: used }),
    };
  };
}
