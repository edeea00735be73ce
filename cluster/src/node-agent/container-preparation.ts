import { ShoalError } from '@shoal/core';
import { type ApiObject, dig, digList, digString } from '../object.ts';
import { parseQuantity } from '../quantity.ts';
import {
  containerEnvironment,
  type EnvironmentContext,
  expand,
  translate,
  withMountedNames,
} from './environment.ts';
import { OciRuntime } from './oci-runtime.ts';
import {
  type ImageSource,
  type ProcessSpec,
  type RunningProcess,
  startProcess,
} from './process-runtime.ts';
import { underTerminal, withTerminal } from './streams/terminal.ts';

export interface ExecOptions {
  readonly stdin: boolean;
  readonly tty: boolean;
}

/** A container that is ready to be started. */
export interface Prepared {
  readonly variables: Readonly<Record<string, string>>;
  start(): Promise<RunningProcess>;
  /** One more command beside the container's own. */
  exec(words: readonly string[], options: ExecOptions): Promise<RunningProcess>;
}

export interface PreparationContext {
  readonly pod: ApiObject;
  readonly images: readonly ImageSource[];
  readonly environment: EnvironmentContext;
  /** Names this agent to the container runtime. */
  readonly agent: string;
  /** Called when a container runtime is used. */
  readonly onImageRuntime: () => void;
}

/** Asks for the image itself also where a command is given: `shoal.dev/runtime: container`. */
const RUNTIME_ANNOTATION = 'shoal.dev/runtime';

function strings(container: unknown, field: string): string[] {
  return digList(container, field).map(String);
}

function imageName(container: unknown): string {
  return (digString(container, 'image') ?? '').replace(/@.*$/, '').replace(/:[^/:]*$/, '');
}

async function runInTerminal(spec: ProcessSpec, options: ExecOptions): Promise<RunningProcess> {
  const started = await startProcess({
    ...(options.tty ? underTerminal(spec) : spec),
    stdin: options.stdin,
  });
  return options.tty ? withTerminal(started) : started;
}

/** The container's command as a process of this machine, with paths and names translated. */
async function prepareProcess(container: unknown, context: PreparationContext): Promise<Prepared> {
  const { environment, pod } = context;
  const variables = await containerEnvironment(pod, container, environment);
  const image = context.images.find((i) => i.image === imageName(container));
  const workingDir = digString(container, 'workingDir');
  const specOf = (command: readonly string[]): ProcessSpec => ({
    command,
    environment: { HOSTNAME: pod.metadata.name, ...image?.environment, ...variables },
    workingDir: workingDir
      ? translate(workingDir, environment)
      : (image?.workingDir ?? environment.rootfs),
    path: image?.path ?? [],
  });
  const words = [...strings(container, 'command'), ...strings(container, 'args')];
  const stdin = dig(container, 'stdin') === true;
  return {
    variables,
    start: async () => {
      const command = words.map((w) => translate(expand(w, variables), environment));
      return await startProcess({ ...specOf(command), stdin });
    },
    exec: async (asked, options) => {
      const command = asked.map((w) => translate(w, environment));
      return await runInTerminal(specOf(withMountedNames(asked, command)), options);
    },
  };
}

let runs = 0;

/** The image as it is, by podman or docker. */
async function prepareImage(
  container: unknown,
  context: PreparationContext,
  runtime: OciRuntime,
): Promise<Prepared> {
  const { pod, agent } = context;
  const { rootfs, mounts } = context.environment;
  const image = digString(container, 'image') ?? '';
  const policy = digString(container, 'imagePullPolicy') ?? 'IfNotPresent';
  await runtime.ensureImage(image, policy);
  // Inside, the paths are the container's own: nothing is translated but names of services.
  const untranslated = { ...context.environment, mounts: [], hostPaths: new Map<string, string>() };
  const variables = await containerEnvironment(pod, container, untranslated);
  const readOnly = new Set(
    digList(container, 'volumeMounts')
      .filter((m) => dig(m, 'readOnly') === true)
      .map((m) => (digString(m, 'mountPath') ?? '').replace(/\/+$/, '')),
  );
  const memory = parseQuantity(dig(container, 'resources', 'limits', 'memory'));
  const expanded = (field: string): string[] =>
    strings(container, field).map((word) => expand(word, variables));
  const name = `shoal-${pod.metadata.uid}-${digString(container, 'name')}-${++runs}`;
  context.onImageRuntime();
  return {
    variables,
    start: async () =>
      await runtime.start(
        {
          name,
          image,
          command: expanded('command'),
          args: expanded('args'),
          environment: variables,
          mounts: mounts.map((m) => ({ ...m, readOnly: readOnly.has(m.mountPath) })),
          workingDir: digString(container, 'workingDir'),
          memoryBytes: memory > 0 ? memory : undefined,
          stdin: dig(container, 'stdin') === true,
          agent,
        },
        rootfs,
      ),
    exec: async (words, options) =>
      await runInTerminal(runtime.exec(name, words, { ...options, folder: rootfs }), options),
  };
}

/**
 * Prepares a container: with a command it runs as a process of this machine, without one its image
 * runs as it is, where podman or docker is found.
 *
 * @throws ShoalError `unsupported` when its image cannot be run here: says what to do.
 */
export async function prepareContainer(
  container: unknown,
  context: PreparationContext,
): Promise<Prepared> {
  const asked = context.pod.metadata.annotations?.[RUNTIME_ANNOTATION] === 'container';
  const hasCommand = strings(container, 'command').length > 0;
  if (hasCommand && !asked) return await prepareProcess(container, context);
  const runtime = await OciRuntime.find();
  if (runtime) return await prepareImage(container, context, runtime);
  throw new ShoalError(
    'unsupported',
    `image "${digString(container, 'image')}" cannot be run: this node has no container runtime (podman or docker), it starts processes only. Add a command to the container, for example command: ["node", "examples/…/worker.ts"]`,
  );
}
