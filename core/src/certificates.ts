import { webcrypto, X509Certificate } from 'node:crypto';
import type * as X509 from '@peculiar/x509';
import { digestOf } from './digest.ts';
import { messageOf, ShoalError } from './errors.ts';

/** Loaded on first use: most processes never issue a certificate and should not pay for it. */
async function loadX509(): Promise<typeof X509> {
  await import('reflect-metadata'); // asked for by x509's dependency injection (tsyringe)
  const x509 = await import('@peculiar/x509');
  x509.cryptoProvider.set(webcrypto);
  return x509;
}

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

/** Machines at the edge often wake up in the past. */
const SKEW_MS = 7 * 24 * 3_600_000;

/** A certificate and its private key, both PEM. The key must never be logged. */
export interface KeyPair {
  readonly certificate: string;
  readonly privateKey: string;
}

export interface Subject {
  /** Common name: for a node certificate the identity itself. */
  readonly commonName: string;
  /** Organisation: Kubernetes reads it as the group. */
  readonly organization?: string;
}

export interface IssueOptions extends Subject {
  readonly dnsNames?: readonly string[];
  readonly ipAddresses?: readonly string[];
  readonly usages: readonly ('server' | 'client')[];
  /** Start of validity, milliseconds since the epoch; a week is subtracted for clocks that are wrong. */
  readonly nowMs: number;
  readonly validForMs: number;
}

function distinguishedName(subject: Subject): string {
  const escaped = (part: string): string => part.replace(/[,+"\\<>;=]/g, '\\$&');
  const organization = subject.organization ? `, O=${escaped(subject.organization)}` : '';
  return `CN=${escaped(subject.commonName)}${organization}`;
}

async function pemOf(key: webcrypto.CryptoKey): Promise<string> {
  const der = await webcrypto.subtle.exportKey('pkcs8', key);
  const body = Buffer.from(der).toString('base64').replace(/.{64}/g, '$&\n').trimEnd();
  return `-----BEGIN PRIVATE KEY-----\n${body}\n-----END PRIVATE KEY-----\n`;
}

async function keyOf(pem: string): Promise<webcrypto.CryptoKey> {
  const der = Buffer.from(pem.replace(/-----[^-]+-----|\s/g, ''), 'base64');
  return await webcrypto.subtle.importKey('pkcs8', der, ALGORITHM, false, ['sign']);
}

function validity(nowMs: number, validForMs: number): { notBefore: Date; notAfter: Date } {
  return { notBefore: new Date(nowMs - SKEW_MS), notAfter: new Date(nowMs + validForMs) };
}

/** A self-signed certificate authority (ECDSA P-256). */
export async function createAuthority(
  commonName: string,
  options: { nowMs: number; validForMs: number },
): Promise<KeyPair> {
  const x509 = await loadX509();
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    name: distinguishedName({ commonName }),
    ...validity(options.nowMs, options.validForMs),
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(
        x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign,
        true,
      ),
    ],
  });
  return {
    certificate: `${certificate.toString('pem')}\n`,
    privateKey: await pemOf(keys.privateKey),
  };
}

function leafExtensions(x509: typeof X509, options: IssueOptions): X509.Extension[] {
  const purposes = options.usages.map((u) =>
    u === 'server' ? x509.ExtendedKeyUsage.serverAuth : x509.ExtendedKeyUsage.clientAuth,
  );
  const names: X509.JsonGeneralNames = [
    ...(options.dnsNames ?? []).map((value) => ({ type: 'dns' as const, value })),
    ...(options.ipAddresses ?? []).map((value) => ({ type: 'ip' as const, value })),
  ];
  return [
    new x509.BasicConstraintsExtension(false, undefined, true),
    new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
    new x509.ExtendedKeyUsageExtension(purposes),
    ...(names.length > 0 ? [new x509.SubjectAlternativeNameExtension(names)] : []),
  ];
}

/** Issues a leaf certificate with a fresh key. Subject, names and usages are the issuer's choice. */
export async function issueCertificate(
  authority: KeyPair,
  options: IssueOptions,
): Promise<KeyPair> {
  const x509 = await loadX509();
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.create({
    subject: distinguishedName(options),
    issuer: new x509.X509Certificate(authority.certificate).subject,
    ...validity(options.nowMs, options.validForMs),
    signingAlgorithm: ALGORITHM,
    publicKey: keys.publicKey,
    signingKey: await keyOf(authority.privateKey),
    extensions: leafExtensions(x509, options),
  });
  return {
    certificate: `${certificate.toString('pem')}\n`,
    privateKey: await pemOf(keys.privateKey),
  };
}

/** A certificate request (PKCS#10) for a fresh key. The key must never be logged. */
export async function createCertificateRequest(
  commonName: string,
): Promise<{ readonly request: Uint8Array; readonly privateKey: string }> {
  const x509 = await loadX509();
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: distinguishedName({ commonName }),
    keys,
    signingAlgorithm: ALGORITHM,
  });
  return { request: new Uint8Array(request.rawData), privateKey: await pemOf(keys.privateKey) };
}

/**
 * Issues a certificate for the key of a request. Subject, names and usages are the issuer's choice:
 * whatever else the request says is not looked at.
 *
 * @throws ShoalError `invalid_argument` when it is no request, or not signed by its own key.
 */
export async function certifyRequest(
  authority: KeyPair,
  request: Uint8Array,
  options: IssueOptions,
): Promise<string> {
  const x509 = await loadX509();
  let publicKey: X509.PublicKey;
  try {
    const parsed = new x509.Pkcs10CertificateRequest(new Uint8Array(request));
    if (!(await parsed.verify())) throw new Error('its signature does not fit its key');
    publicKey = parsed.publicKey;
    const { algorithm } = publicKey as { algorithm: { name: string; namedCurve?: string } };
    if (algorithm.name !== ALGORITHM.name && algorithm.name !== 'EC')
      throw new Error(`its key is ${algorithm.name}, not ECDSA P-256`);
  } catch (error) {
    throw new ShoalError('invalid_argument', `not a certificate request: ${messageOf(error)}`, {
      cause: error,
    });
  }
  const certificate = await x509.X509CertificateGenerator.create({
    subject: distinguishedName(options),
    issuer: new x509.X509Certificate(authority.certificate).subject,
    ...validity(options.nowMs, options.validForMs),
    signingAlgorithm: ALGORITHM,
    publicKey: await publicKey.export(ALGORITHM, ['verify']),
    signingKey: await keyOf(authority.privateKey),
    extensions: leafExtensions(x509, options),
  });
  return `${certificate.toString('pem')}\n`;
}

/** Signs bytes with a private key (ECDSA P-256, SHA-256, IEEE P1363). */
export async function signWith(privateKey: string, bytes: Uint8Array): Promise<Uint8Array> {
  const key = await keyOf(privateKey);
  return new Uint8Array(await webcrypto.subtle.sign(ALGORITHM, key, new Uint8Array(bytes)));
}

/** Digest of a PEM certificate's DER: how tokens and deny lists name it. */
export function certificateDigest(pem: string): string {
  return digestOf(new X509Certificate(pem).raw);
}

/**
 * Whether a certificate comes from an authority, and a signature from the certificate's key. Says
 * nothing about whether it is still valid.
 */
export async function provesPossession(options: {
  readonly authority: string;
  readonly certificate: string;
  readonly signature: Uint8Array;
  readonly bytes: Uint8Array;
}): Promise<boolean> {
  try {
    const certificate = new X509Certificate(options.certificate);
    const authority = new X509Certificate(options.authority);
    if (!certificate.checkIssued(authority) || !certificate.verify(authority.publicKey))
      return false;
    const spki = certificate.publicKey.export({ type: 'spki', format: 'der' });
    const key = await webcrypto.subtle.importKey('spki', new Uint8Array(spki), ALGORITHM, false, [
      'verify',
    ]);
    const [signature, bytes] = [new Uint8Array(options.signature), new Uint8Array(options.bytes)];
    return await webcrypto.subtle.verify(ALGORITHM, key, signature, bytes);
  } catch {
    return false;
  }
}
