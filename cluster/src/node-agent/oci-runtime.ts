import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { messageOf, ShoalError } from '@shoal/core';
import { type ProcessSpec, type RunningProcess, startProcess } from './process-runtime.ts';
import type { Mount } from './volumes.ts';

const run = promisify(execFile);

/** What the runtimes' own programs need of this machine's environment. */
const CLIENT_VARIABLES = [
  'HOME',
  'PATH',
  'XDG_RUNTIME_DIR',
  'CONTAINERS_CONF',
  'CONTAINERS_STORAGE_CONF',
  'DOCKER_HOST',
  'DOCKER_CONFIG',
];
const CHECK_TIMEOUT_MS = 10_000;
const PULL_TIMEOUT_MS = 15 * 60_000;
/** How references begin; one that began with a dash would be an option to the runtime. */
const IMAGE = /^[A-Za-z0-9][\w.:/@-]*$/;
const LABEL = 'shoal.dev/agent';

/** A container as an image runtime starts it. */
export interface OciContainer {
  readonly name: string;
  readonly image: string;
  /** Replaces the image's entry point when not empty. */
  readonly command: readonly string[];
  readonly args: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly mounts: readonly (Mount & { readonly readOnly: boolean })[];
  readonly workingDir: string | undefined;
  readonly memoryBytes: number | undefined;
  readonly stdin: boolean;
  /** Who starts it: what a killed agent leaves is found by this. */
  readonly agent: string;
}

function clientEnvironment(): Record<string, string> {
  return Object.fromEntries(
    CLIENT_VARIABLES.flatMap((name) => {
      const value = process.env[name];
      return value === undefined ? [] : [[name, value]];
    }),
  );
}

/** Arguments of `run`; values of variables go by the environment, where others cannot read them. */
export function runArguments(container: OciContainer): string[] {
  const { command, mounts, workingDir, memoryBytes } = container;
  const [entry, ...more] = command;
  const variables = Object.entries(container.environment).flatMap(([name, value]) => [
    '--env',
    CLIENT_VARIABLES.includes(name) ? `${name}=${value}` : name,
  ]);
  return [
    'run',
    '--rm',
    '--name',
    container.name,
    '--label',
    `${LABEL}=${container.agent}`,
    '--network',
    'host',
    ...(container.stdin ? ['--interactive'] : []),
    ...(workingDir ? ['--workdir', workingDir] : []),
    ...(memoryBytes ? ['--memory', String(memoryBytes)] : []),
    ...variables,
    ...mounts.flatMap((m) => [
      '--volume',
      `${m.realPath}:${m.mountPath}${m.readOnly ? ':ro' : ''}`,
    ]),
    ...(entry === undefined ? [] : ['--entrypoint', entry]),
    container.image,
    ...more,
    ...container.args,
  ];
}

/** Runs images as they are, with podman or docker: for containers without a command of their own. */
export class OciRuntime {
  readonly #program: string;

  constructor(program: string) {
    this.#program = program;
  }

  static #found: Promise<OciRuntime | undefined> | undefined;

  /** The runtime of this machine, looked for once; undefined when there is none that answers. */
  static find(): Promise<OciRuntime | undefined> {
    OciRuntime.#found ??= OciRuntime.#look();
    return OciRuntime.#found;
  }

  static async #look(): Promise<OciRuntime | undefined> {
    for (const [program, ...args] of [
      ['podman', 'info', '--format', '{{.Version.Version}}'],
      ['docker', 'version', '--format', '{{.Server.Version}}'],
    ] as const) {
      const there = await run(program, args, { timeout: CHECK_TIMEOUT_MS }).then(
        () => true,
        () => false,
      );
      if (there) return new OciRuntime(program);
    }
    return undefined;
  }

  async #call(args: readonly string[], timeout: number = CHECK_TIMEOUT_MS): Promise<string> {
    const { stdout } = await run(this.#program, args, { timeout });
    return stdout;
  }

  /** @throws ShoalError `unsupported` when the image is not here and cannot be had. */
  async ensureImage(image: string, policy: string): Promise<void> {
    if (!IMAGE.test(image)) {
      const message = `Failed to apply default image tag ${JSON.stringify(image)}: invalid reference format`;
      throw new ShoalError('unsupported', message);
    }
    const present = await this.#call(['image', 'inspect', '--format', '{{.Id}}', image]).then(
      () => true,
      () => false,
    );
    if (present && policy !== 'Always') return;
    if (policy === 'Never') {
      const message = `Container image "${image}" is not present with pull policy of Never`;
      throw new ShoalError('unsupported', message);
    }
    try {
      await this.#call(['pull', '--quiet', image], PULL_TIMEOUT_MS);
    } catch (error) {
      const why = messageOf(error).split('\n').slice(-3).join(' ').trim();
      throw new ShoalError('unsupported', `image "${image}" cannot be pulled: ${why}`, {
        cause: error,
      });
    }
  }

  /** Starts a container; ending the process that is returned ends the container. */
  async start(container: OciContainer, folder: string): Promise<RunningProcess> {
    const started = await startProcess({
      command: [this.#program, ...runArguments(container)],
      environment: { ...container.environment, ...clientEnvironment() },
      workingDir: folder,
      path: [],
      stdin: container.stdin,
    });
    const remove = async (): Promise<void> => {
      await this.#call(['rm', '--force', container.name]).catch(() => undefined);
    };
    return {
      ...started,
      stop: async (graceMs) => {
        const seconds = String(Math.ceil(graceMs / 1000));
        const stopping = this.#call(
          ['stop', '--time', seconds, container.name],
          graceMs + CHECK_TIMEOUT_MS,
        );
        await stopping.catch(() => undefined);
        const exit = await started.stop(CHECK_TIMEOUT_MS);
        await remove();
        return exit;
      },
      kill: () => {
        void remove();
        started.kill();
      },
    };
  }

  /** The command that runs another one inside a container. */
  exec(
    name: string,
    words: readonly string[],
    options: { readonly stdin: boolean; readonly tty: boolean; readonly folder: string },
  ): ProcessSpec {
    const { stdin, tty, folder } = options;
    const flags = [...(stdin ? ['--interactive'] : []), ...(tty ? ['--tty'] : [])];
    return {
      command: [this.#program, 'exec', ...flags, name, ...words],
      environment: clientEnvironment(),
      workingDir: folder,
      path: [],
      stdin,
    };
  }

  /** Ends what an agent that was killed left running. */
  async removeLeftovers(agent: string): Promise<void> {
    const ids = await this.#call(['ps', '--all', '--quiet', '--filter', `label=${LABEL}=${agent}`]);
    for (const id of ids.split('\n').filter((line) => line !== ''))
      await this.#call(['rm', '--force', id]).catch(() => undefined);
  }
}
