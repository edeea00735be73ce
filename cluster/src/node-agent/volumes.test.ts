import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import type { ApiObject } from '../object.ts';
import { prepareVolumes, type ReadConfig } from './volumes.ts';

const folder = mkdtempSync(join(tmpdir(), 'shoal-volumes-'));
afterAll(() => rmSync(folder, { recursive: true }));

const object = (data: Record<string, string>): ApiObject => ({
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { name: 'c' },
  data,
});
const readConfig: ReadConfig = async (kind, name) =>
  await Promise.resolve(
    name !== 'there'
      ? undefined
      : object(
          kind === 'secrets'
            ? { key: Buffer.from('geheim').toString('base64') }
            : { a: '1', b: '2' },
        ),
  );

async function mount(volume: object): Promise<string> {
  const pod = { ...object({}), spec: { volumes: [{ name: 'v', ...volume }] } };
  const podDir = mkdtempSync(join(folder, 'pod-'));
  const paths = await prepareVolumes(pod, { rootfs: folder, podDir, readConfig });
  return paths.get('v') ?? '';
}

test('config maps and secrets as files: all of them, some of them, with their modes', async () => {
  const all = await mount({ configMap: { name: 'there' } });
  expect(readdirSync(all)).toEqual(['a', 'b']);
  const some = await mount({
    configMap: { name: 'there', items: [{ key: 'b', path: 'sub/c' }], defaultMode: 0o444 },
  });
  expect(readFileSync(join(some, 'sub/c'), 'utf8')).toBe('2');
  expect(existsSync(join(some, 'a'))).toBe(false);
  expect(statSync(join(some, 'sub/c')).mode & 0o777).toBe(0o444);
  const secret = await mount({ secret: { secretName: 'there', defaultMode: 0o644 } });
  expect(readFileSync(join(secret, 'key'), 'utf8')).toBe('geheim');
  expect(statSync(join(secret, 'key')).mode & 0o777).toBe(0o600);
});

test('what is missing keeps the pod waiting, unless it is optional', async () => {
  await expect(mount({ configMap: { name: 'gone' } })).rejects.toThrow(
    'configmap "gone" not found',
  );
  expect(readdirSync(await mount({ configMap: { name: 'gone', optional: true } }))).toEqual([]);
  const items = [
    { key: 'a', path: 'a' },
    { key: 'z', path: 'z' },
  ];
  await expect(mount({ configMap: { name: 'there', items } })).rejects.toThrow('has no key "z"');
  const optional = await mount({ configMap: { name: 'there', items, optional: true } });
  expect(readdirSync(optional)).toEqual(['a']);
});

test('a volume of a sort nobody mounts here is refused by name', async () => {
  await expect(mount({ nfs: { server: 'x', path: '/' } })).rejects.toThrow(
    /volume "v": this cluster mounts/,
  );
});
