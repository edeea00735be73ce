import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ApiObject } from '@shoal/cluster';
import { ClusterFixture, type Live } from '../cluster-fixture.ts';
import { has, type Outcome, run } from './outcome.ts';

const NAME = 'containers without a command run their image, with podman';
const IMAGE = 'localhost/shoal-test:latest';
const BUSYBOX = ['/bin/busybox', '/usr/bin/busybox'].find((p) => existsSync(p));
const CMD = 'CMD ["/bin/sh", "-c", "echo from $WHO; cat /data/x; exec sleep 600"]';

/** An image of one static program, made here: nothing is pulled. */
function makeImage(folder: string): boolean {
  const bin = join(folder, 'bin');
  mkdirSync(bin);
  copyFileSync(BUSYBOX ?? '', join(bin, 'busybox'));
  for (const word of ['sh', 'cat', 'sleep', 'echo', 'ls', 'true'])
    symlinkSync('busybox', join(bin, word));
  const archive = join(folder, 'image.tar');
  run('tar', ['-C', folder, '-cf', archive, 'bin']);
  return has('podman', 'import', '--change', CMD, archive, IMAGE);
}

/** In a sandbox podman may need to be told what it may do; undefined when it runs nothing at all. */
function workingPodman(folder: string): Record<string, string> | undefined {
  const conf = join(folder, 'containers.conf');
  const storage = join(folder, 'storage.conf');
  const limits = 'default_ulimits = ["nofile=1000:20000", "nproc=4096:4096"]';
  writeFileSync(conf, `[containers]\n${limits}\n[engine]\nruntime = "runc"\n`);
  const root = join(folder, 'storage');
  writeFileSync(
    storage,
    `[storage]\ndriver = "vfs"\nrunroot = "${root}/run"\ngraphroot = "${root}/graph"\n`,
  );
  const careful = { CONTAINERS_CONF: conf, CONTAINERS_STORAGE_CONF: storage };
  for (const environment of [{}, careful]) {
    Object.assign(process.env, environment);
    const runs =
      makeImageOnce(folder) &&
      has('podman', 'run', '--rm', '--network', 'host', IMAGE, '/bin/true');
    if (runs) return environment;
  }
  for (const name of Object.keys(careful)) delete process.env[name];
  return undefined;
}

function makeImageOnce(folder: string): boolean {
  rmSync(join(folder, 'bin'), { recursive: true, force: true });
  return makeImage(folder);
}

function podOf(name: string, image: string): ApiObject {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name },
    spec: {
      nodeName: 'edge-1',
      terminationGracePeriodSeconds: 1,
      volumes: [{ name: 'v', hostPath: { path: '/data' } }],
      containers: [
        {
          name: 'main',
          image,
          imagePullPolicy: 'Never',
          env: [{ name: 'WHO', value: 'the image' }],
          volumeMounts: [{ name: 'v', mountPath: '/data', readOnly: true }],
        },
      ],
    },
  };
}

async function check(c: ClusterFixture): Promise<void> {
  writeFileSync(c.path('edge-1', '/data/x'), 'a file of the node\n');
  const pods = '/api/v1/namespaces/default/pods';
  const running = (): string =>
    run('podman', ['ps', '--quiet', '--filter', 'label=shoal.dev/agent']).stdout.trim();
  await c.client.request('POST', pods, podOf('img', IMAGE));
  const log = async (): Promise<string> => {
    let text = '';
    await c.client.stream(`${pods}/img/log`, (chunk) => {
      text += chunk.toString();
    });
    return text;
  };
  await c.until('its output', async () => (await log()) === 'from the image\na file of the node\n');
  if (has('kubectl', 'version', '--client')) {
    const env = { KUBECONFIG: c.layout.kubeconfig };
    const listed = run('kubectl', ['exec', 'img', '--', 'ls', '/data'], { env });
    if (listed.stdout !== 'x\n') throw new Error(`kubectl exec: ${JSON.stringify(listed)}`);
  }
  const first = running();
  if (first === '') throw new Error('no container is running');
  process.kill(c.pidOf('node-agent-edge-1'), 'SIGKILL');
  await c.until('another container after the agent was killed', async () => {
    const now = running();
    return await Promise.resolve(now !== '' && now !== first && !now.includes('\n'));
  });
  await c.client.request('POST', pods, podOf('absent', 'localhost/never-made:latest'));
  await c.until('the reason', async () => {
    const found = (await c.get('pod', 'absent')) as Live;
    const state = JSON.stringify(found.status?.containerStatuses?.[0]?.state);
    return /ErrImagePull.*not present with pull policy of Never/.test(state);
  });
  for (const name of ['img', 'absent']) await c.client.request('DELETE', `${pods}/${name}`);
  await c.until('the container to end', async () => await Promise.resolve(running() === ''));
}

/** Pods whose containers name an image and no command. */
export async function containerRuntime(): Promise<Outcome[]> {
  const skipped = (detail: string): Outcome[] => [{ name: NAME, result: 'skipped', detail }];
  if (!has('podman', '--version'))
    return skipped('podman is not here (Debian: apt-get install podman runc)');
  if (!BUSYBOX) return skipped('busybox is not here (Debian: apt-get install busybox-static)');
  const folder = mkdtempSync(join(tmpdir(), 'shoal-podman-'));
  try {
    const environment = workingPodman(folder);
    if (!environment) return skipped('podman starts no container on this machine');
    const fixture = await ClusterFixture.start(1);
    try {
      await check(fixture);
      return [{ name: NAME, result: 'passed' }];
    } catch (error) {
      return [{ name: NAME, result: 'failed', detail: String(error) }];
    } finally {
      await fixture.stop();
    }
  } finally {
    run('podman', ['rmi', '--force', IMAGE]);
    for (const name of ['CONTAINERS_CONF', 'CONTAINERS_STORAGE_CONF']) delete process.env[name];
    rmSync(folder, { recursive: true, force: true });
  }
}
