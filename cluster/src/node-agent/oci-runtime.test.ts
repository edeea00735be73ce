import { expect, test } from 'vitest';
import { type OciContainer, OciRuntime, runArguments } from './oci-runtime.ts';

const container: OciContainer = {
  name: 'shoal-x',
  image: 'registry/image:1',
  command: [],
  args: [],
  environment: { TOKEN: 'geheim' },
  mounts: [{ realPath: '/node/data', mountPath: '/data', readOnly: true }],
  workingDir: undefined,
  memoryBytes: undefined,
  stdin: false,
  agent: 'a',
};

test('values of variables are not on the command line; those of the runtime’s own names have to be', () => {
  const words = runArguments(container);
  expect(words).toContain('TOKEN');
  expect(words.join(' ')).not.toContain('geheim');
  const own = runArguments({ ...container, environment: { HOME: '/work' } });
  expect(own).toContain('HOME=/work');
});

test('command, arguments, limits and mounts stand where the runtime reads them', () => {
  const words = runArguments({
    ...container,
    command: ['sh', '-c'],
    args: ['--rm'],
    memoryBytes: 1024,
    workingDir: '/data',
    stdin: true,
  });
  const at = words.indexOf('registry/image:1');
  expect(words.slice(at + 1)).toEqual(['-c', '--rm']);
  const options = words.slice(0, at).join(' ');
  for (const option of [
    '--entrypoint sh',
    '--memory 1024',
    '--workdir /data',
    '--interactive',
    '--volume /node/data:/data:ro',
  ])
    expect(options).toContain(option);
});

test.each(['--privileged', '-v/:/host', '', 'a b'])(
  'an image named %j never reaches the runtime',
  async (image) => {
    const runtime = new OciRuntime('/nowhere/to/be/found');
    await expect(runtime.ensureImage(image, 'Always')).rejects.toThrow('invalid reference format');
  },
);
