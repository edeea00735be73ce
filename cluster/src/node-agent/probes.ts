import { execFile } from 'node:child_process';
import { request } from 'node:http';
import { request as secureRequest } from 'node:https';
import { connect } from 'node:net';
import { dig, digList, digNumber, digObject, digString } from '../object.ts';

export type ProbeResult = { readonly ok: true } | { readonly ok: false; readonly why: string };

export interface ProbeTarget {
  readonly container: unknown;
  readonly host: string;
  readonly environment: Readonly<Record<string, string>>;
}

function portOf(port: unknown, container: unknown): number {
  if (typeof port === 'number') return port;
  if (/^\d+$/.test(String(port))) return Number(port);
  const found = digList(container, 'ports').find((p) => digString(p, 'name') === port);
  return digNumber(found, 'containerPort') ?? 0;
}

function httpProbe(action: object, target: ProbeTarget, timeoutMs: number): Promise<ProbeResult> {
  const secure = digString(action, 'scheme') === 'HTTPS';
  const open = secure ? secureRequest : request;
  const headers = Object.fromEntries(
    digList(action, 'httpHeaders').map((h) => [
      digString(h, 'name') ?? '',
      digString(h, 'value') ?? '',
    ]),
  );
  return new Promise((resolve) => {
    const call = open(
      {
        host: digString(action, 'host') ?? target.host,
        port: portOf(dig(action, 'port'), target.container),
        path: digString(action, 'path') ?? '/',
        headers,
        timeout: timeoutMs,
        rejectUnauthorized: false,
        agent: false,
      },
      (response) => {
        response.resume();
        const code = response.statusCode ?? 0;
        resolve(
          code >= 200 && code < 400
            ? { ok: true }
            : { ok: false, why: `HTTP probe failed with statuscode: ${code}` },
        );
      },
    );
    call.on('timeout', () => call.destroy(new Error('timeout')));
    call.on('error', (error) => resolve({ ok: false, why: error.message }));
    call.end();
  });
}

function tcpProbe(action: object, target: ProbeTarget, timeoutMs: number): Promise<ProbeResult> {
  return new Promise((resolve) => {
    const socket = connect({
      host: digString(action, 'host') ?? target.host,
      port: portOf(dig(action, 'port'), target.container),
      timeout: timeoutMs,
    });
    const end = (result: ProbeResult): void => {
      socket.destroy();
      resolve(result);
    };
    socket.on('connect', () => end({ ok: true }));
    socket.on('timeout', () => end({ ok: false, why: 'timeout' }));
    socket.on('error', (error) => end({ ok: false, why: error.message }));
  });
}

function execProbe(
  command: readonly string[],
  target: ProbeTarget,
  timeoutMs: number,
): Promise<ProbeResult> {
  const [program = '', ...args] = command;
  return new Promise((resolve) => {
    execFile(
      program,
      args,
      { timeout: timeoutMs, env: { PATH: process.env['PATH'] ?? '', ...target.environment } },
      (error) => resolve(error ? { ok: false, why: error.message } : { ok: true }),
    );
  });
}

/** Runs one probe once. */
export async function runProbe(probe: unknown, target: ProbeTarget): Promise<ProbeResult> {
  const timeoutMs = (digNumber(probe, 'timeoutSeconds') ?? 1) * 1000;
  if (dig(probe, 'httpGet')) return await httpProbe(digObject(probe, 'httpGet'), target, timeoutMs);
  if (dig(probe, 'tcpSocket'))
    return await tcpProbe(digObject(probe, 'tcpSocket'), target, timeoutMs);
  const command = digList(probe, 'exec', 'command').map(String);
  if (command.length > 0) return await execProbe(command, target, timeoutMs);
  return { ok: true };
}

export interface ProbeHooks {
  readonly onResult: (healthy: boolean, why: string) => void;
  readonly signal: AbortSignal;
  /** Asks more often than the period until the first success: readiness should not cost seconds. */
  readonly eager?: boolean;
}

const EAGER_MS = 250;

/** Runs a probe periodically and reports when its verdict is reached (thresholds applied). */
export async function watchProbe(
  probe: unknown,
  target: ProbeTarget,
  hooks: ProbeHooks,
): Promise<void> {
  const period = (digNumber(probe, 'periodSeconds') ?? 10) * 1000;
  const needed = {
    true: digNumber(probe, 'successThreshold') ?? 1,
    false: digNumber(probe, 'failureThreshold') ?? 3,
  };
  const { signal } = hooks;
  await delay((digNumber(probe, 'initialDelaySeconds') ?? 0) * 1000, signal);
  let streak = { ok: false, count: 0 };
  let verdict: boolean | undefined;
  while (!signal.aborted) {
    const result = await runProbe(probe, target);
    streak =
      streak.ok === result.ok
        ? { ok: result.ok, count: streak.count + 1 }
        : { ok: result.ok, count: 1 };
    if (
      !signal.aborted &&
      streak.count >= needed[`${result.ok}`] &&
      (verdict !== result.ok || (!result.ok && !hooks.eager))
    ) {
      verdict = result.ok;
      hooks.onResult(result.ok, result.ok ? '' : result.why);
    }
    await delay(hooks.eager && verdict !== true ? Math.min(period, EAGER_MS) : period, signal);
  }
}

function delay(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(resolve, ms);
    signal.addEventListener(
      'abort',
      () => {
        clearTimeout(timer);
        resolve();
      },
      { once: true },
    );
  });
}
