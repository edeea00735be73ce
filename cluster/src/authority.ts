import { X509Certificate } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createAuthority, fromNode, issueCertificate, type KeyPair, ShoalError } from '@shoal/core';

const DAY_MS = 24 * 3600 * 1000;
const YEAR_MS = 365 * DAY_MS;
/** A server certificate is replaced when it has less than this to live. */
const RENEW_MS = 60 * DAY_MS;

function readPair(file: string, dataDir: string): KeyPair | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as KeyPair;
  } catch (error) {
    if (fromNode(error, '').code === 'not_found') return undefined;
    throw new ShoalError(
      'data_corrupt',
      `${file} cannot be read; remove ${dataDir} to start a new cluster`,
      { cause: error },
    );
  }
}

/** The cluster's certificate authority: made once, then read. */
export async function clusterAuthority(dataDir: string, nowMs: number): Promise<KeyPair> {
  const file = join(dataDir, 'ca.json');
  const known = readPair(file, dataDir);
  if (known) return known;
  const authority = await createAuthority('shoal embedded cluster', {
    nowMs,
    validForMs: 10 * YEAR_MS,
  });
  mkdirSync(dataDir, { recursive: true });
  writeFileSync(file, JSON.stringify(authority), { mode: 0o600, flag: 'wx' });
  return authority;
}

function isGood(pair: KeyPair, authority: KeyPair, nowMs: number): boolean {
  const certificate = new X509Certificate(pair.certificate);
  const left = Date.parse(certificate.validTo) - nowMs;
  return left > RENEW_MS && certificate.checkIssued(new X509Certificate(authority.certificate));
}

/**
 * The API server's certificate: kept on disk and renewed at a start when it is about to end, so that
 * the server need not load what issues certificates.
 */
export async function serverCertificate(dataDir: string, nowMs: number): Promise<KeyPair> {
  const authority = await clusterAuthority(dataDir, nowMs);
  const file = join(dataDir, 'server.json');
  const known = readPair(file, dataDir);
  if (known && isGood(known, authority, nowMs)) return known;
  const pair = await issueCertificate(authority, {
    commonName: 'kube-apiserver',
    dnsNames: ['localhost', 'kubernetes', 'kubernetes.default'],
    ipAddresses: ['127.0.0.1'],
    usages: ['server', 'client'],
    nowMs,
    validForMs: YEAR_MS,
  });
  writeFileSync(file, JSON.stringify(pair), { mode: 0o600 });
  return pair;
}
