import { readdirSync, readFileSync } from 'node:fs';

/** What the processes of one container have used. */
export interface Usage {
  /** Processor time since they began, in seconds. */
  readonly cpuSeconds: number;
  /** Resident memory, in bytes. */
  readonly memoryBytes: number;
}

/** Clock ticks per second; Linux shows user space 100 whatever the kernel's own rate. */
const TICKS = 100;
/** Fields of /proc/<pid>/stat, counted after the command name (proc_pid_stat(5)). */
const FIELD = { session: 3, userTicks: 11, systemTicks: 12, residentPages: 21 } as const;

function pageBytes(): number {
  try {
    const map = readFileSync('/proc/self/smaps', 'utf8');
    return Number(/KernelPageSize:\s+(\d+) kB/.exec(map)?.[1] ?? 4) * 1024;
  } catch {
    return 4096;
  }
}

/**
 * Use by session: every container begins one of its own, and what it starts stays in it. Empty
 * where there is no /proc.
 */
export function usageBySession(): Map<number, Usage> {
  const found = new Map<number, Usage>();
  if (process.platform !== 'linux') return found;
  const page = pageBytes();
  for (const pid of readdirSync('/proc').filter((p) => /^\d+$/.test(p))) {
    let stat: string;
    try {
      stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    } catch {
      continue; // it has ended
    }
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const session = Number(fields[FIELD.session]);
    const known = found.get(session) ?? { cpuSeconds: 0, memoryBytes: 0 };
    const ticks = Number(fields[FIELD.userTicks]) + Number(fields[FIELD.systemTicks]);
    found.set(session, {
      cpuSeconds: known.cpuSeconds + ticks / TICKS,
      memoryBytes: known.memoryBytes + Number(fields[FIELD.residentPages]) * page,
    });
  }
  return found;
}

/** Use of a container over a while. */
export interface Rate {
  /** Cores in use, on average over the window. */
  readonly cores: number;
  readonly memoryBytes: number;
}

export interface Measured {
  readonly windowMs: number;
  readonly bySession: ReadonlyMap<number, Rate>;
}

interface Sample {
  readonly at: number;
  readonly usage: Map<number, Usage>;
}

const MIN_WINDOW_MS = 500;
const MAX_WINDOW_MS = 60_000;

/** Measures what containers use now: since the last measurement, or over half a second. */
export class UsageMeter {
  #last: Sample | undefined;

  async measure(): Promise<Measured> {
    const known = this.#last;
    const age = known ? performance.now() - known.at : Number.POSITIVE_INFINITY;
    if (!known || age > MAX_WINDOW_MS) {
      this.#last = { at: performance.now(), usage: usageBySession() };
      await new Promise((resolve) => {
        setTimeout(resolve, MIN_WINDOW_MS);
      });
      return this.#since(this.#last);
    }
    return this.#since(known);
  }

  #since(before: Sample): Measured {
    const now = { at: performance.now(), usage: usageBySession() };
    const windowMs = now.at - before.at;
    // Shorter than half a second says little: the older sample stays the base.
    if (windowMs >= MIN_WINDOW_MS) this.#last = now;
    const rates = [...now.usage].map(([session, { cpuSeconds, memoryBytes }]) => {
      const used = cpuSeconds - (before.usage.get(session)?.cpuSeconds ?? 0);
      return [session, { cores: Math.max(0, used / (windowMs / 1000)), memoryBytes }] as const;
    });
    return { windowMs, bySession: new Map(rates) };
  }
}
