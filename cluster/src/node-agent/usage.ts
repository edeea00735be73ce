import { readdirSync, readFileSync } from 'node:fs';

/** What the processes of one container have used. */
export interface Usage {
  /** Processor time since they began, in seconds. */
  readonly cpuSeconds: number;
  /** Resident memory, in bytes; pages that processes share are counted for each. */
  readonly memoryBytes: number;
  readonly pids: readonly number[];
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

let pageSize: number | undefined;

/** Memory of a container with shared pages counted once, in bytes (`Pss` of proc_pid_smaps(5)). */
export function proportionalBytes({ memoryBytes, pids }: Usage): number {
  if (pids.length < 2) return memoryBytes;
  let sum = 0;
  for (const pid of pids) {
    try {
      const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
      sum += Number(/^Pss:\s+(\d+) kB/m.exec(rollup)?.[1] ?? 0) * 1024;
    } catch {
      // it has ended, or is somebody else's
    }
  }
  return sum > 0 ? Math.min(sum, memoryBytes) : memoryBytes;
}

/**
 * Use by session: every container begins one of its own, and what it starts stays in it. Empty
 * where there is no /proc.
 */
export function usageBySession(): Map<number, Usage> {
  const found = new Map<number, Usage>();
  if (process.platform !== 'linux') return found;
  pageSize ??= pageBytes();
  const page = pageSize;
  for (const pid of readdirSync('/proc').filter((p) => /^\d+$/.test(p))) {
    let stat: string;
    try {
      stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    } catch {
      continue; // it has ended
    }
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const session = Number(fields[FIELD.session]);
    const known = found.get(session) ?? { cpuSeconds: 0, memoryBytes: 0, pids: [] };
    const ticks = Number(fields[FIELD.userTicks]) + Number(fields[FIELD.systemTicks]);
    found.set(session, {
      cpuSeconds: known.cpuSeconds + ticks / TICKS,
      memoryBytes: known.memoryBytes + Number(fields[FIELD.residentPages]) * page,
      pids: [...known.pids, Number(pid)],
    });
  }
  return found;
}

/** Use of a container over a while. */
export interface Rate {
  /** Cores in use, on average over the window. */
  readonly cores: number;
  readonly usage: Usage;
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
  #pending: Promise<Measured> | undefined;
  #recent: { readonly at: number; readonly measured: Measured } | undefined;

  /** Those who ask at the same time, or soon after, get the same answer. */
  async measure(): Promise<Measured> {
    const recent = this.#recent;
    if (recent && performance.now() - recent.at < MIN_WINDOW_MS) return recent.measured;
    this.#pending ??= this.#measure().finally(() => {
      this.#pending = undefined;
    });
    const measured = await this.#pending;
    this.#recent = { at: performance.now(), measured };
    return measured;
  }

  async #measure(): Promise<Measured> {
    const known = this.#last;
    const age = known ? performance.now() - known.at : Number.POSITIVE_INFINITY;
    if (!known || age > MAX_WINDOW_MS || age < MIN_WINDOW_MS) {
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
    this.#last = now;
    const rates = [...now.usage].map(([session, usage]) => {
      const used = usage.cpuSeconds - (before.usage.get(session)?.cpuSeconds ?? 0);
      const cores = Math.max(0, used / (windowMs / 1000));
      return [session, { cores, usage }] as const;
    });
    return { windowMs, bySession: new Map(rates) };
  }
}
