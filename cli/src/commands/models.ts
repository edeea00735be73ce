import type { IncrementalLearningJob } from '@shoal/api';
import { ShoalError } from '@shoal/core';
import { renderTable } from '../terminal/table.ts';
import { type GlobalOptions, type Session, withCluster } from './context.ts';

export type ModelFlags = GlobalOptions & { readonly json?: boolean };

type Served = NonNullable<NonNullable<IncrementalLearningJob['status']>['models']>[number];

const KIND = 'IncrementalLearningJob';
const short = (digest: string): string => digest.slice(7, 19);

function print(json: boolean | undefined, value: unknown, text: () => string): void {
  process.stdout.write(json ? `${JSON.stringify(value)}\n` : `${text()}\n`);
}

async function jobOf(
  session: Session,
  name: string,
  flags: ModelFlags,
): Promise<IncrementalLearningJob> {
  const found = await session.resources.get(KIND, flags.namespace, name);
  if (found) return found as unknown as IncrementalLearningJob;
  const names = (await jobsOf(session, flags)).map((j) => j.metadata.name);
  throw new ShoalError(
    'not_found',
    `there is no incremental learning job "${name}" in namespace ${flags.namespace}; there are: ${names.join(', ') || 'none'}`,
  );
}

async function jobsOf(session: Session, flags: ModelFlags): Promise<IncrementalLearningJob[]> {
  const resource = await session.resources.find(KIND);
  const path = session.resources.path(resource, flags.namespace);
  const { items } = (await session.client.request('GET', path)) as {
    items: IncrementalLearningJob[];
  };
  return items;
}

function stateOf(job: IncrementalLearningJob, model: Served): string {
  if (job.status?.deployedModel !== model.digest) return '';
  return job.spec.deploySpec.model.pin === model.digest ? 'serving, pinned' : 'serving';
}

function metric(model: Served, key: string): string {
  const value = Number(model.metrics?.find((m) => m.key === key)?.value ?? Number.NaN);
  return Number.isFinite(value) ? `${(value * 100).toFixed(1)} %` : '';
}

/** `shoal model list [JOB]` */
export async function modelListCommand(name: string | undefined, flags: ModelFlags): Promise<void> {
  await withCluster(flags, async (session) => {
    const jobs =
      name === undefined ? await jobsOf(session, flags) : [await jobOf(session, name, flags)];
    const models = jobs.flatMap((job) =>
      (job.status?.models ?? []).map((model) => ({
        job: job.metadata.name,
        ...model,
        state: stateOf(job, model),
      })),
    );
    print(flags.json, models, () =>
      models.length === 0
        ? 'no job has replaced its model yet'
        : renderTable([
            ['JOB', 'ROUND', 'MODEL', 'SERVED SINCE', 'ACCURACY', 'STATE'],
            ...models.map((m) => [
              m.job,
              String(m.round),
              short(m.digest),
              m.deployedAt ?? '',
              metric(m, 'accuracy'),
              m.state,
            ]),
          ]),
    );
  });
}

/** A served model by its digest, a beginning of it, or its round. */
function pick(job: IncrementalLearningJob, given: string): Served {
  const models = job.status?.models ?? [];
  const found = models.filter(
    (m) =>
      m.digest.startsWith(given) ||
      m.digest.startsWith(`sha256:${given}`) ||
      String(m.round) === given,
  );
  const [model] = found;
  if (model && found.length === 1) return model;
  const known = models.map((m) => `round ${m.round} (${short(m.digest)})`).join(', ') || 'none';
  throw new ShoalError(
    found.length > 1 ? 'invalid_argument' : 'not_found',
    found.length > 1
      ? `"${given}" fits ${found.length} models of ${job.metadata.name}: ${known}`
      : `${job.metadata.name} has served no model "${given}"; it has served: ${known}`,
  );
}

/** `shoal model show JOB [MODEL]` */
export async function modelShowCommand(
  name: string,
  given: string | undefined,
  flags: ModelFlags,
): Promise<void> {
  await withCluster(flags, async (session) => {
    const job = await jobOf(session, name, flags);
    const serving = job.status?.deployedModel ?? job.status?.models?.at(-1)?.digest;
    if (given === undefined && serving === undefined)
      return print(flags.json, null, () => `${name} serves the model it began with`);
    const model = pick(job, given ?? serving ?? '');
    print(flags.json, { ...model, state: stateOf(job, model) }, () =>
      [
        `${name}, round ${model.round}${stateOf(job, model) ? `: ${stateOf(job, model)}` : ''}`,
        `digest        ${model.digest}`,
        `served since  ${model.deployedAt ?? '?'}`,
        renderTable([['METRIC', 'VALUE'], ...(model.metrics ?? []).map((m) => [m.key, m.value])]),
      ].join('\n'),
    );
  });
}

async function setPin(
  session: Session,
  name: string,
  pin: string | null,
  flags: ModelFlags,
): Promise<void> {
  const resource = await session.resources.find(KIND);
  const path = session.resources.path(resource, flags.namespace, name);
  const body = { spec: { deploySpec: { model: { pin } } } };
  await session.client.request('PATCH', `${path}?fieldManager=shoal`, body, {
    contentType: 'application/merge-patch+json',
  });
}

/** Waits until a job serves a model. */
async function untilServed(
  session: Session,
  name: string,
  digest: string,
  flags: ModelFlags,
): Promise<void> {
  const deadline = Date.now() + 90_000;
  for (;;) {
    const job = await jobOf(session, name, flags);
    if (job.status?.deployedModel === digest) return;
    if (Date.now() > deadline)
      throw new ShoalError(
        'deadline_exceeded',
        `${name} does not serve ${short(digest)} after 90 s; it will once its node is there: shoal describe il ${name}`,
      );
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

/** `shoal model rollback JOB`: an earlier model serves, and goes on serving until the pin is removed. */
export async function modelRollbackCommand(
  name: string,
  flags: ModelFlags & { readonly to?: string; readonly off?: boolean; readonly wait: boolean },
): Promise<void> {
  await withCluster(flags, async (session) => {
    const job = await jobOf(session, name, flags);
    if (flags.off) {
      await setPin(session, name, null, flags);
      return print(
        flags.json,
        { pin: null },
        () => `${name}: the next better model is deployed again`,
      );
    }
    const models = job.status?.models ?? [];
    const served = models.find((m) => m.digest === job.status?.deployedModel);
    // By round: a model that came back stands at the end of the history.
    const before = models
      .filter((m) => served !== undefined && m.round < served.round)
      .toSorted((a, b) => b.round - a.round)[0];
    if (flags.to === undefined && !before)
      throw new ShoalError(
        'failed_precondition',
        `${name} has no model before the one it serves; see: shoal model list ${name}`,
      );
    const model = flags.to === undefined ? (before as Served) : pick(job, flags.to);
    await setPin(session, name, model.digest, flags);
    if (flags.wait) await untilServed(session, name, model.digest, flags);
    print(
      flags.json,
      { pin: model.digest, round: model.round },
      () =>
        `${name} ${flags.wait ? 'serves' : 'will serve'} the model of round ${model.round} (${short(model.digest)}), and goes on doing so\nto let training replace it again: shoal model rollback ${name} --off`,
    );
  });
}
