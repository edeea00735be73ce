import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { ClusterFixture } from '../cluster-fixture.ts';
import { type Outcome, type Run } from './outcome.ts';

const WEB = {
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: { name: 'web' },
  spec: {
    replicas: 2,
    selector: { matchLabels: { app: 'web' } },
    template: {
      metadata: { labels: { app: 'web' } },
      spec: {
        containers: [
          {
            name: 'web',
            image: 'any',
            command: [
              'node',
              '-e',
              "console.log('up'); require('http').createServer((q, s) => s.end('hello')).listen(8080, process.env.POD_IP)",
            ],
            env: [{ name: 'POD_IP', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } }],
            readinessProbe: { httpGet: { port: 8080 }, periodSeconds: 1 },
          },
        ],
      },
    },
  },
};
const DATASET = {
  apiVersion: 'sedna.io/v1alpha1',
  kind: 'Dataset',
  metadata: { name: 'd' },
  spec: { url: '/data/d.txt', format: 'txt', nodeName: 'edge-1' },
};

/** A command of the session and what its output must be, by Kubernetes' documented behaviour. */
interface Step {
  readonly args: string;
  readonly input?: object | readonly object[];
  readonly code?: number;
  readonly stdout?: RegExp;
  readonly stderr?: RegExp;
}

/** Commands whose bodies are protobuf since kubectl 1.32, and what they make. */
const IMPERATIVE: readonly Step[] = [
  { args: 'create configmap conf --from-literal=a=1', stdout: /configmap\/conf created/ },
  { args: 'get configmap conf -o jsonpath={.data.a}', stdout: /^1$/ },
  {
    args: 'create configmap conf --from-literal=a=1',
    code: 1,
    stderr: /failed to create configmap: configmaps "conf" already exists/,
  },
  {
    args: 'create secret generic hidden --from-literal=p=geheim',
    stdout: /secret\/hidden created/,
  },
  { args: 'get secret hidden -o jsonpath={.data.p}', stdout: /^Z2VoZWlt$/ },
  { args: 'create serviceaccount builder', stdout: /serviceaccount\/builder created/ },
  { args: 'create namespace extra', stdout: /namespace\/extra created/ },
  {
    args: 'create deployment tool --image=any --replicas=0 -- sleep 60',
    stdout: /deployment\.apps\/tool created/,
  },
  { args: 'get deployment tool -o jsonpath={.spec.replicas}', stdout: /^0$/ },
  {
    args: 'autoscale deployment tool --min=1 --max=3 --cpu-percent=50',
    stdout: /horizontalpodautoscaler\.autoscaling\/tool autoscaled/,
    stderr: /Warning: .*does not scale by them/,
  },
  {
    args: 'get hpa tool',
    stdout:
      /REFERENCE\s+TARGETS\s+MINPODS\s+MAXPODS\s+REPLICAS\s+AGE\ntool\s+Deployment\/tool\s+cpu: <unknown>\/50%\s+1\s+3\s+0/,
  },
  { args: 'create service clusterip tool --tcp=80:8080', stdout: /service\/tool created/ },
  { args: 'get service tool -o jsonpath={.spec.ports[0].targetPort}', stdout: /^8080$/ },
  {
    args: 'create role reader --verb=get --resource=pods',
    stdout: /role\.rbac\.authorization\.k8s\.io\/reader created/,
    stderr: /Warning: .*does not enforce/,
  },
  { args: 'auth can-i create pods', stdout: /^yes/ },
  { args: 'auth can-i --list', stdout: /\*\.\*\s+\[\]\s+\[\]\s+\[\*\]/ },
  { args: 'auth whoami', stdout: /Username\s+admin/ },
  {
    args: 'create job once --image=any -- node -e console.log(42)',
    stdout: /job\.batch\/once created/,
  },
  {
    args: 'wait --for=condition=complete job/once --timeout=30s',
    stdout: /job\.batch\/once condition met/,
  },
  {
    args: 'get jobs once',
    stdout: /NAME\s+STATUS\s+COMPLETIONS\s+DURATION\s+AGE\nonce\s+Complete\s+1\/1\s+\d+s\s+\d+s/,
  },
  { args: 'logs job/once', stdout: /^42$/m },
  {
    args: 'describe job once',
    stdout: /Pods Statuses:\s+0 Active \(0 Ready\) \/ 1 Succeeded \/ 0 Failed/,
  },
  { args: 'delete job once', stdout: /job\.batch "once" deleted/ },
  { args: 'get pods -l job-name=once', stderr: /No resources found/ },
  { args: 'delete namespace extra --timeout=30s', stdout: /namespace "extra" deleted/ },
];

const STEPS: readonly Step[] = [
  ...IMPERATIVE,
  { args: 'version', stdout: /Server Version: v1\.32/ },
  {
    args: 'api-resources --api-group=sedna.io',
    stdout: /incrementallearningjobs\s+il\s+sedna\.io\/v1alpha1\s+true\s+IncrementalLearningJob/,
  },
  { args: 'get nodes', stdout: /cloud-1\s+Ready\s+cloud[\s\S]*edge-1\s+Ready\s+edge/ },
  { args: 'apply -f -', input: WEB, stdout: /^deployment\.apps\/web created$/m },
  { args: 'rollout status deployment/web --timeout=40s', stdout: /successfully rolled out/ },
  { args: 'apply -f -', input: WEB, stdout: /^deployment\.apps\/web unchanged$/m },
  {
    args: 'wait --for=condition=Available deployment/web --timeout=10s',
    stdout: /deployment\.apps\/web condition met/,
  },
  {
    args: 'get deployment web',
    stdout: /NAME\s+READY\s+UP-TO-DATE\s+AVAILABLE\s+AGE\nweb\s+2\/2\s+2\s+2/,
  },
  {
    args: 'get pods -l app=web -o wide',
    stdout: /NAME\s+READY\s+STATUS\s+RESTARTS\s+AGE\s+IP\s+NODE[\s\S]*1\/1\s+Running\s+0/,
  },
  { args: 'get pods -l app=web -o jsonpath={.items[*].status.phase}', stdout: /^Running Running$/ },
  { args: 'logs -l app=web', stdout: /up\nup/ },
  { args: 'scale deployment web --replicas=1', stdout: /deployment\.apps\/web scaled/ },
  { args: 'label deployment web tier=front', stdout: /deployment\.apps\/web labeled/ },
  { args: 'annotate deployment web note=x', stdout: /deployment\.apps\/web annotated/ },
  {
    args: `patch deployment web --type=json -p [{"op":"add","path":"/metadata/labels/j","value":"1"}]`,
    stdout: /web patched/,
  },
  {
    args: `patch deployment web --type=merge -p {"metadata":{"labels":{"j":"1"}}}`,
    stdout: /web patched \(no change\)/,
  },
  { args: 'describe deployment web', stdout: /Replicas:\s+1 desired[\s\S]*ScalingReplicaSet/ },
  {
    args: 'explain il.spec.trainSpec.trigger.condition',
    stdout: /GROUP:\s+sedna\.io[\s\S]*threshold\s+<number> -required-/,
  },
  { args: 'apply -f -', input: DATASET, stdout: /^dataset\.sedna\.io\/d created$/m },
  {
    args: 'wait --for=jsonpath={.status.numberOfSamples}=3 ds/d --timeout=15s',
    stdout: /dataset\.sedna\.io\/d condition met/,
  },
  {
    args: 'get ds',
    stdout: /NAME\s+NODE\s+FORMAT\s+SAMPLES\s+READY\s+AGE\nd\s+edge-1\s+txt\s+3\s+Monitored/,
  },
  { args: 'describe ds d', stdout: /Kind:\s+Dataset[\s\S]*Number Of Samples:\s+3/ },
  {
    args: 'apply -f -',
    input: { ...DATASET, spec: { ...DATASET.spec, fromat: 'x' } },
    code: 1,
    stderr: /unknown field "spec\.fromat"/,
  },
  {
    args: 'apply -f -',
    input: { ...DATASET, metadata: { name: 'bad' }, spec: { url: 1, format: 'txt' } },
    code: 1,
    stderr: /The Dataset "bad" is invalid: spec\.url: Invalid value/,
  },
  {
    args: 'create -f -',
    input: DATASET,
    code: 1,
    stderr: /AlreadyExists.*datasets\.sedna\.io "d" already exists/,
  },
  {
    args: 'get pod nothing',
    code: 1,
    stderr: /Error from server \(NotFound\): pods "nothing" not found/,
  },
  { args: 'delete ds d', stdout: /dataset\.sedna\.io "d" deleted/ },
  {
    args: 'delete deployment web --cascade=foreground --timeout=40s',
    stdout: /deployment\.apps "web" deleted/,
  },
  { args: 'get pods -l app=web', stderr: /No resources found/ },
];

/** kubectl, without blocking this process: it supervises the cluster. */
function kubectl(step: Step, kubeconfig: string): Promise<Run> {
  const child = spawn('kubectl', step.args.split(' '), {
    env: { ...process.env, KUBECONFIG: kubeconfig },
    timeout: 60_000,
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  const objects = step.input === undefined ? [] : [step.input].flat();
  child.stdin.end(objects.map((o) => stringify(o)).join('---\n'));
  return new Promise((resolve) => {
    child.on('error', (error) => resolve({ code: 127, stdout, stderr: error.message }));
    child.on('close', (code) => resolve({ code: code ?? 1, stdout, stderr }));
  });
}

function judge(step: Step, done: Run): Outcome {
  const name = `kubectl ${step.args}`;
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
    for (const step of STEPS) outcomes.push(judge(step, await kubectl(step, kubeconfig)));
    return outcomes;
  } finally {
    await fixture?.stop();
  }
}
