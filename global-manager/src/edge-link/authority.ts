import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { KNOWLEDGE_BASE_NAME, MANAGER_NAME } from '@shoal/api';
import { createAuthority, errnoOf, fromNode, issueCertificate, type KeyPair } from '@shoal/core';

const YEAR_MS = 365 * 24 * 3600 * 1000;

/** EdgeLink's certificate authority: created once, never replaced (two managers must agree on one). */
export async function edgeAuthority(dataDir: string, nowMs: number): Promise<KeyPair> {
  const file = join(dataDir, 'edge-link-ca.json');
  const read = (): KeyPair => JSON.parse(readFileSync(file, 'utf8')) as KeyPair;
  try {
    return read();
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw fromNode(error, `reading ${file}`);
  }
  const authority = await createAuthority('shoal edge link', { nowMs, validForMs: 10 * YEAR_MS });
  mkdirSync(dataDir, { recursive: true });
  try {
    writeFileSync(file, JSON.stringify(authority), { mode: 0o600, flag: 'wx' });
    return authority;
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return read();
    throw fromNode(error, `writing ${file}`);
  }
}

/**
 * The certificate the manager itself shows. Edges check it against a fixed name, so that the
 * manager's address may change.
 */
export async function issueManagerCertificate(authority: KeyPair, nowMs: number): Promise<KeyPair> {
  return await issueCertificate(authority, {
    commonName: MANAGER_NAME,
    dnsNames: [MANAGER_NAME],
    usages: ['server'],
    nowMs,
    validForMs: YEAR_MS,
  });
}

/** The certificate the knowledge base shows, under its own fixed name. */
export async function issueKnowledgeBaseCertificate(
  authority: KeyPair,
  nowMs: number,
): Promise<KeyPair> {
  return await issueCertificate(authority, {
    commonName: KNOWLEDGE_BASE_NAME,
    dnsNames: [KNOWLEDGE_BASE_NAME],
    usages: ['server'],
    nowMs,
    validForMs: YEAR_MS,
  });
}

/** The key shared by the manager and the knowledge base: made once, by whoever needs it first. */
export function knowledgeBaseKey(dataDir: string, file?: string): string {
  return sharedKey(dataDir, file || join(dataDir, 'knowledge-base.key'));
}

/** The key of join tokens and of the operator’s token. */
export function fleetKey(dataDir: string): string {
  return sharedKey(dataDir, join(dataDir, 'fleet.key'));
}

/** The key of the sample service's tokens. */
export function samplesKey(dataDir: string): string {
  return sharedKey(dataDir, join(dataDir, 'samples.key'));
}

function sharedKey(dataDir: string, path: string): string {
  const read = (): string => readFileSync(path, 'utf8').trim();
  try {
    mkdirSync(dataDir, { recursive: true });
    writeFileSync(path, `${randomBytes(32).toString('hex')}\n`, { mode: 0o600, flag: 'wx' });
    return read();
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return read();
    throw fromNode(error, `writing ${path}`);
  }
}
