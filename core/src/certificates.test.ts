import { X509Certificate } from 'node:crypto';
import { expect, test } from 'vitest';
import { createAuthority, issueCertificate } from './certificates.ts';

test('an issued certificate verifies against its authority and carries what was asked', async () => {
  const nowMs = Date.now();
  const authority = await createAuthority('test', { nowMs, validForMs: 1e9 });
  const other = await createAuthority('test', { nowMs, validForMs: 1e9 });
  const leaf = await issueCertificate(authority, {
    commonName: 'system:node:a',
    organization: 'system:nodes',
    ipAddresses: ['127.0.0.1'],
    dnsNames: ['localhost'],
    usages: ['server', 'client'],
    nowMs,
    validForMs: 1e6,
  });
  const certificate = new X509Certificate(leaf.certificate);
  const ca = new X509Certificate(authority.certificate);
  expect(certificate.verify(ca.publicKey)).toBe(true);
  expect(certificate.verify(new X509Certificate(other.certificate).publicKey)).toBe(false);
  expect(certificate.subject).toContain('CN=system:node:a');
  expect(certificate.checkIP('127.0.0.1')).toBe('127.0.0.1');
  expect(certificate.ca).toBe(false);
  expect(Date.parse(certificate.validTo)).toBeLessThanOrEqual(nowMs + 1e6);
});
