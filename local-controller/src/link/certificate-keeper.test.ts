import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  certifyRequest,
  createAuthority,
  FakeClock,
  issueCertificate,
  type KeyPair,
  seededRandom,
  silentLogger,
} from '@shoal/core';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CertificateKeeper } from './certificate-keeper.ts';
import { readIdentity, type StoredIdentity, writeIdentity } from './identity.ts';

const HOUR_MS = 3_600_000;
let dir: string;
let file: string;
let authority: KeyPair;
let clock: FakeClock;
let connected: boolean;
let remaining: number | undefined;
let renewals: number;
let fails: boolean;
let used: StoredIdentity[];
let keeper: CertificateKeeper;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'keeper-'));
  file = join(dir, 'identity.json');
  clock = new FakeClock(1_800_000_000_000);
  authority = await createAuthority('test', { nowMs: clock.now(), validForMs: 1_000 * HOUR_MS });
  const first = await issueCertificate(authority, {
    commonName: 'system:node:edge',
    usages: ['client'],
    nowMs: clock.now(),
    validForMs: 72 * HOUR_MS,
  });
  writeIdentity(file, {
    ...first,
    authority: authority.certificate,
    validForMs: 72 * HOUR_MS,
    fleetServer: '127.0.0.1:1',
  });
  [connected, remaining, renewals, fails, used] = [true, 72 * HOUR_MS, 0, false, []];
  keeper = new CertificateKeeper({
    file,
    clock,
    random: seededRandom(3),
    logger: silentLogger,
    link: {
      get connected() {
        return connected;
      },
      get certificateRemainingMs() {
        return remaining;
      },
      reconnect: () => undefined,
    },
    transport: {
      useIdentity: (identity) => used.push(identity),
      renew: async (request) => {
        renewals++;
        if (fails) throw new Error('the cloud is busy');
        const certificate = await certifyRequest(authority, request, {
          commonName: 'system:node:edge',
          usages: ['client'],
          nowMs: clock.now(),
          validForMs: 72 * HOUR_MS,
        });
        const validForMs = BigInt(72 * HOUR_MS);
        return { certificate, authority: authority.certificate, validForMs };
      },
    },
  });
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

test('renewed with a new key at about two thirds of its life, and on the disk before it is used', async () => {
  const first = readIdentity(file);
  expect(await keeper.look()).toBe(false);
  await clock.advance(38 * HOUR_MS);
  expect(await keeper.look()).toBe(false);
  await clock.advance(18 * HOUR_MS);
  expect(await keeper.look()).toBe(true);
  const second = readIdentity(file);
  expect(second.privateKey).not.toBe(first.privateKey);
  expect(used).toEqual([second]);
  remaining = 72 * HOUR_MS - 1; // the next session’s welcome
  expect(await keeper.look()).toBe(false);
  expect(renewals).toBe(1);
});

test('how much is left the cloud says: a clock that is days off changes nothing', async () => {
  remaining = 20 * HOUR_MS;
  expect(await keeper.look()).toBe(true);
});

test('a renewal that fails keeps what is there, and is tried again', async () => {
  const first = readIdentity(file);
  remaining = 10 * HOUR_MS;
  fails = true;
  await expect(keeper.look()).rejects.toThrow(/busy/);
  expect(readIdentity(file)).toEqual(first);
  expect(used).toEqual([]);
  fails = false;
  expect(await keeper.look()).toBe(true);
});

test('without a session for long it is recovered, whatever this clock says, less and less often', async () => {
  connected = false;
  const tries: number[] = [];
  for (let minute = 0; minute < 20; minute++) {
    // Nobody listens at the fleet service: an attempt fails.
    await keeper.look().catch(() => tries.push(minute));
    await clock.advance(60_000);
  }
  expect(tries).toEqual([2, 6, 14]);
});
