import { generateKeyPairSync, randomBytes } from 'node:crypto';
import type { FederatedLearningJob } from '@shoal/api';
import { createAuthority, issueCertificate } from '@shoal/core';
import { type KubeApi, type KubeObject, SECRET } from '../../kube/kube-api.ts';
import { ownerReference } from '../../worker-pod/build.ts';

/** Name in the certificates of a job's aggregators, wherever they run. */
export const AGGREGATOR_NAME = 'federation.shoal.dev';
const VALID_MS = 5 * 365 * 24 * 3600 * 1000;

export const federationSecret = (job: FederatedLearningJob): string =>
  `${job.metadata.name}-federation`;

const base64 = (text: string): string => Buffer.from(text).toString('base64');

/** Token, and a certificate of an authority that is forgotten at once: it signs nothing else. */
async function basics(nowMs: number): Promise<Record<string, string>> {
  const at = { nowMs, validForMs: VALID_MS };
  const authority = await createAuthority('shoal federation', at);
  const { certificate, privateKey } = await issueCertificate(authority, {
    commonName: AGGREGATOR_NAME,
    dnsNames: [AGGREGATOR_NAME],
    usages: ['server'],
    ...at,
  });
  return {
    token: base64(randomBytes(32).toString('hex')),
    authority: base64(authority.certificate),
    certificate: base64(certificate),
    privateKey: base64(privateKey),
  };
}

/** Signing keys of participants and, with each, the public keys of all: Ed25519, raw, in base64. */
function identities(participants: ReadonlyMap<string, string>): Record<string, string> {
  const pairs = [...participants].map(([slot, name]) => {
    const { privateKey } = generateKeyPairSync('ed25519');
    const { d = '', x = '' } = privateKey.export({ format: 'jwk' });
    const plain = (text: string): string => Buffer.from(text, 'base64url').toString('base64');
    return { slot, name, secretKey: plain(d), publicKey: plain(x) };
  });
  const roster = Object.fromEntries(pairs.map((p) => [p.name, p.publicKey]));
  return Object.fromEntries(
    pairs.map(({ slot, secretKey }) => [
      `identity-${slot}`,
      base64(JSON.stringify({ secretKey, roster })),
    ]),
  );
}

/**
 * The secret only workers of this job know, made once: token and certificate and, where changes are
 * only added up masked, what each participant signs with. The aggregator makes no identities: it is
 * whom they protect from.
 *
 * @param participants Names of the participants by slot.
 */
export async function ensureSecret(
  job: FederatedLearningJob,
  participants: ReadonlyMap<string, string>,
  ports: { readonly api: KubeApi; readonly nowMs: number },
): Promise<void> {
  const { namespace = '' } = job.metadata;
  const name = federationSecret(job);
  const found: (KubeObject & { readonly data?: Record<string, string> }) | undefined =
    await ports.api.get(SECRET, namespace, name);
  const isOurs = found?.metadata.ownerReferences?.some((o) => o.uid === job.metadata.uid) ?? false;
  // That of a job of the same name that is gone: its collector may take it away at any time.
  if (found && !isOurs) await ports.api.delete(SECRET, namespace, name);
  const current = isOurs ? found : undefined;
  const isSecure = job.spec.privacy?.secureAggregation !== undefined;
  const has = (key: string): boolean => current?.data?.[key] !== undefined;
  // One made by an older manager has a token only.
  const isWhole = has('certificate');
  const slots = isSecure ? [...participants.keys()] : [];
  if (isWhole && slots.every((slot) => has(`identity-${slot}`))) return;
  const data = {
    ...(isWhole ? {} : await basics(ports.nowMs)),
    ...current?.data,
    ...(isSecure ? identities(participants) : {}),
  };
  const metadata = { name, namespace, ownerReferences: [ownerReference(job)] };
  if (current) await ports.api.update(SECRET, { ...current, data });
  else await ports.api.create(SECRET, { metadata, type: 'Opaque', data });
}
