import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { stringify } from 'yaml';
import { ClusterFixture } from '../cluster-fixture.ts';
import { STEPS, type Step } from './kubectl-steps.ts';
import type { Outcome, Run } from './outcome.ts';

function words({ args }: Step): string[] {
  return typeof args === 'string' ? args.split(' ') : [...args];
}

/** kubectl, without blocking this process: it supervises the cluster. */
function kubectl(step: Step, kubeconfig: string): Promise<Run> {
  const child = spawn('kubectl', words(step), {
    env: { ...process.env, KUBECONFIG: kubeconfig, ...step.environment },
    timeout: 60_000,
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  const objects = step.input === undefined ? [] : [step.input].flat();
  child.stdin.on('error', () => undefined);
  child.stdin.end(step.stdin ?? objects.map((o) => stringify(o)).join('---\n'));
  return new Promise((resolve) => {
    child.on('error', (error) => resolve({ code: 127, stdout, stderr: error.message }));
    child.on('close', (code) => resolve({ code: code ?? 1, stdout, stderr }));
  });
}

function judge(step: Step, done: Run): Outcome {
  const over = step.environment ? Object.entries(step.environment).join(' ').replace(',', '=') : '';
  const name = [over, 'kubectl', ...words(step)].join(' ').trim();
  const fits =
    done.code === (step.code ?? 0) &&
    (step.stdout?.test(done.stdout) ?? true) &&
    (step.stderr?.test(done.stderr) ?? true);
  if (fits) return { name, result: 'passed' };
  return {
    name,
    result: 'failed',
    detail: `exit code ${done.code}, wanted ${step.code ?? 0} and ${step.stdout ?? step.stderr}\n${(done.stdout + done.stderr).slice(0, 1_500)}`,
  };
}

/** `kubectl port-forward` to the web server of the session, and a request through it. */
async function portForward(kubeconfig: string): Promise<Outcome> {
  const name = 'kubectl port-forward deployment/web :8080';
  const child = spawn('kubectl', ['port-forward', 'deployment/web', ':8080'], {
    env: { ...process.env, KUBECONFIG: kubeconfig },
    timeout: 60_000,
  });
  let said = '';
  const take = (chunk: Buffer): void => {
    said += chunk.toString();
  };
  child.stdout.on('data', take);
  child.stderr.on('data', take);
  try {
    let port: string | undefined;
    for (let i = 0; i < 200 && port === undefined && child.exitCode === null; i++) {
      port = /127\.0\.0\.1:(\d+) -> 8080/.exec(said)?.[1];
      await sleep(50);
    }
    const answers: string[] = [];
    for (let i = 0; i < 3; i++)
      answers.push(await (await fetch(`http://127.0.0.1:${port}/`)).text());
    const fits = answers.every((a) => a === 'hello');
    return fits
      ? { name, result: 'passed' }
      : { name, result: 'failed', detail: `${answers.join()}\n${said}` };
  } catch (error) {
    return { name, result: 'failed', detail: `${String(error)}\n${said}` };
  } finally {
    child.kill();
  }
}

/** `kubectl get -w` sees an object come, change and go. */
async function watchObjects(kubeconfig: string): Promise<Outcome> {
  const name = 'kubectl get configmap seen -w';
  const child = spawn('kubectl', ['get', 'configmap', '-l', 'seen=here', '-w', '--no-headers'], {
    env: { ...process.env, KUBECONFIG: kubeconfig },
    timeout: 60_000,
  });
  let said = '';
  child.stdout.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  const lines = async (count: number): Promise<boolean> => {
    for (let i = 0; i < 100 && said.split('\n').length <= count; i++) await sleep(50);
    return said.split('\n').length > count;
  };
  const seen = {
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name: 'seen', labels: { seen: 'here' } },
  };
  await sleep(1_000);
  await kubectl({ args: 'apply -f -', input: { ...seen, data: { a: '1' } } }, kubeconfig);
  const came = await lines(1);
  await kubectl({ args: 'apply -f -', input: { ...seen, data: { a: '1', b: '2' } } }, kubeconfig);
  const changed = await lines(2);
  await kubectl({ args: 'delete configmap seen' }, kubeconfig);
  const went = await lines(3);
  child.kill();
  const fits =
    came && changed && went && /^seen\s+1\s+\d+s\nseen\s+2\s+\d+s\nseen\s+2\s/.test(said);
  return fits ? { name, result: 'passed' } : { name, result: 'failed', detail: said };
}

/** The scripted session: on the embedded cluster, or on any cluster named by `SHOAL_KUBECONFIG`. */
export async function kubectlSession(): Promise<Outcome[]> {
  const version = await kubectl({ args: 'version --client' }, '/dev/null');
  if (version.code !== 0)
    return [
      {
        name: 'kubectl session',
        result: 'skipped',
        detail: 'kubectl is not here (Debian: apt-get install kubernetes-client)',
      },
    ];
  const given = process.env['SHOAL_KUBECONFIG'];
  const fixture = given ? undefined : await ClusterFixture.start(1);
  try {
    if (fixture) writeFileSync(fixture.path('edge-1', '/data/d.txt'), 'a\nb\nc\n');
    const kubeconfig = given ?? join(fixture?.layout.root ?? '', 'kubeconfig');
    const outcomes: Outcome[] = [];
    for (const step of STEPS) {
      if (given && step.embedded) {
        const detail = 'says what holds for the embedded cluster only';
        outcomes.push({ name: `kubectl ${words(step).join(' ')}`, result: 'skipped', detail });
        continue;
      }
      outcomes.push(judge(step, await kubectl(step, kubeconfig)));
      if (step.thenForward) outcomes.push(await portForward(kubeconfig));
    }
    outcomes.push(await watchObjects(kubeconfig));
    return outcomes;
  } finally {
    await fixture?.stop();
  }
}
