/** Images run where there is a container runtime; the embedded cluster runs commands only. */
const IMAGE = process.env['SHOAL_TEST_IMAGE'] ?? 'any';

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
            image: IMAGE,
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
export interface Step {
  /** Words; a string is split at its spaces. */
  readonly args: string | readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly input?: object | readonly object[];
  readonly code?: number;
  readonly stdout?: RegExp;
  readonly stderr?: RegExp;
  /** What the command reads, instead of objects. */
  readonly stdin?: string;
  /** A port is forwarded to the web server after it. */
  readonly thenForward?: true;
  /** Holds for the embedded cluster only: its names, its limits. */
  readonly embedded?: true;
}

const AS_BUILDER = '--as=system:serviceaccount:default:builder';

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
    args: `create deployment tool --image=${IMAGE} --replicas=0 -- sleep 60`,
    stdout: /deployment\.apps\/tool created/,
  },
  { args: 'get deployment tool -o jsonpath={.spec.replicas}', stdout: /^0$/ },
  {
    args: 'autoscale deployment tool --min=1 --max=3 --cpu-percent=50',
    stdout: /horizontalpodautoscaler\.autoscaling\/tool autoscaled/,
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
  },
  {
    args: 'create rolebinding builders --clusterrole=view --serviceaccount=default:builder',
    stdout: /rolebinding\.rbac\.authorization\.k8s\.io\/builders created/,
  },
  { args: `auth can-i list pods ${AS_BUILDER}`, stdout: /^yes/ },
  { args: `auth can-i delete pods ${AS_BUILDER}`, code: 1, stdout: /^no/ },
  {
    args: `auth can-i --list ${AS_BUILDER}`,
    stdout: /deployments\.apps\s+\[\]\s+\[\]\s+\[get list watch\]/,
  },
  { args: `get configmaps ${AS_BUILDER}`, stdout: /NAME\s+DATA\s+AGE/ },
  {
    args: `delete configmap conf ${AS_BUILDER}`,
    code: 1,
    stderr:
      /Error from server \(Forbidden\): configmaps "conf" is forbidden: User "system:serviceaccount:default:builder" cannot delete resource "configmaps" in API group "" in the namespace "default"/,
  },
  { args: 'create token builder --duration=20m', stdout: /^[\w-]+\.[\w-]+\.[\w-]+$/m },
  {
    args: 'create token builder --duration=1m',
    code: 1,
    stderr: /may not specify a duration less than 10 minutes/,
  },
  { args: 'create quota few --hard=pods=5', stdout: /resourcequota\/few created/ },
  { args: 'auth can-i create pods', stdout: /^yes/ },
  { args: 'auth can-i --list', stdout: /\*\.\*\s+\[\]\s+\[\]\s+\[\*\]/ },
  { embedded: true, args: 'auth whoami', stdout: /Username\s+admin/ },
  {
    args: `create job once --image=${IMAGE} -- node -e console.log(42)`,
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

const SHARED = {
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { name: 'shared' },
  data: { a: '1', b: '1' },
};
const MOVED = { ...SHARED, metadata: { name: 'moved' } };
const MANAGERS = '-o jsonpath={.metadata.managedFields[*].manager}';

/** Server-side apply: owners, conflicts, and the way from client-side apply. */
const SERVER_SIDE: readonly Step[] = [
  {
    args: 'apply --server-side --field-manager=ann -f -',
    input: SHARED,
    stdout: /configmap\/shared serverside-applied/,
  },
  {
    args: 'apply --server-side --field-manager=bob -f -',
    input: { ...SHARED, data: { b: '2' } },
    code: 1,
    stderr: /Apply failed with 1 conflict: conflict with "ann": \.data\.b/,
  },
  {
    args: 'apply --server-side --field-manager=bob --force-conflicts -f -',
    input: { ...SHARED, data: { b: '2' } },
    stdout: /configmap\/shared serverside-applied/,
  },
  { args: `get configmap shared ${MANAGERS}`, stdout: /^ann bob$/ },
  {
    args: 'apply --server-side --field-manager=ann -f -',
    input: { ...SHARED, data: {} },
    stdout: /serverside-applied/,
  },
  { args: 'get configmap shared -o jsonpath={.data}', stdout: /^\{"b":"2"\}$/ },
  { args: 'get configmap shared -o yaml --show-managed-fields', stdout: /fieldsType: FieldsV1/ },
  { args: 'apply -f -', input: MOVED, stdout: /configmap\/moved created/ },
  { args: `get configmap moved ${MANAGERS}`, stdout: /^kubectl-client-side-apply$/ },
  {
    args: 'apply --server-side -f -',
    input: { ...MOVED, data: { a: '2' } },
    stdout: /configmap\/moved serverside-applied/,
  },
  { args: 'get configmap moved -o jsonpath={.data.a}', stdout: /^2$/ },
  {
    args: 'diff --server-side -f -',
    input: { ...MOVED, data: { a: '3' } },
    code: 1,
    stdout: /^\+ {2}a: "3"$/m,
  },
  {
    args: 'replace -f -',
    input: { ...MOVED, data: { a: 'replaced' } },
    stdout: /configmap\/moved replaced/,
  },
  { args: 'get configmap moved -o json', stdout: /"a": "replaced"/ },
  { args: 'get configmap moved -o custom-columns=A:.data.a', stdout: /^A\nreplaced$/m },
  {
    args: 'replace -f -',
    input: { ...MOVED, metadata: { name: 'moved', resourceVersion: '1' } },
    code: 1,
    stderr: /Error from server \(Conflict\).*the object has been modified/,
  },
];

const POD = {
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: 'one' },
  spec: {
    volumes: [{ name: 'v', emptyDir: {} }],
    containers: [
      {
        name: 'main',
        image: IMAGE,
        command: ['sh', '-c', 'echo started; sleep 600'],
        env: [{ name: 'WHO', value: 'somebody' }],
        volumeMounts: [{ name: 'v', mountPath: '/data' }],
      },
    ],
  },
};
const SPDY = { KUBECTL_REMOTE_COMMAND_WEBSOCKETS: 'false' };

/** exec, cp, attach, logs: over WebSocket, and over SPDY as older clients do. */
const STREAMS: readonly Step[] = [
  { args: 'apply -f -', input: POD, stdout: /pod\/one created/ },
  { args: 'wait --for=condition=Ready pod/one --timeout=30s', stdout: /condition met/ },
  ...[{}, SPDY].flatMap((environment): Step[] => [
    {
      args: ['exec', 'one', '--', 'sh', '-c', 'echo $WHO; echo no >&2; exit 3'],
      environment,
      code: 3,
      stdout: /^somebody\n$/,
      stderr: /^no\ncommand terminated with exit code 3/,
    },
    {
      args: 'exec -i one -- cat',
      environment,
      stdin: 'over there\n'.repeat(100_000),
      stdout: /^(over there\n){100000}$/,
    },
  ]),
  {
    args: 'exec one -c nobody -- true',
    code: 1,
    stderr: /container nobody is not valid for pod one/,
  },
  { args: `cp ${import.meta.filename} one:/data/copy`, stdout: /^$/ },
  { args: 'exec one -- wc -l /data/copy', stdout: /^[ ]*\d{3,} / },
  {
    args: `run reader -i --rm --restart=Never --image=${IMAGE} --command -- cat`,
    stdin: 'said on the way in\n',
    stdout: /said on the way in[\s\S]*pod "reader" deleted/,
  },
  {
    args: [
      'run',
      'crash',
      '--restart=Always',
      `--image=${IMAGE}`,
      '--command',
      '--',
      'sh',
      '-c',
      'echo the end; exit 1',
    ],
    stdout: /pod\/crash created/,
  },
  {
    args: 'wait --for=jsonpath={.status.containerStatuses[0].restartCount}=1 pod/crash --timeout=30s',
    stdout: /condition met/,
  },
  { args: 'logs crash --previous', stdout: /^the end$/m },
  { args: 'delete pod crash --now', stdout: /pod "crash" deleted/ },
  {
    args: [
      'run',
      'brief',
      '--restart=Never',
      `--image=${IMAGE}`,
      '--command',
      '--',
      'sh',
      '-c',
      'for i in 1 2 3; do echo $i; sleep 0.3; done',
    ],
    stdout: /pod\/brief created/,
  },
  { args: 'wait --for=jsonpath={.status.phase}=Running pod/brief --timeout=30s' },
  { args: 'logs -f brief', stdout: /^1\n2\n3\n$/ },
  { args: 'delete pod brief one --now', stdout: /pod "brief" deleted[\s\S]*pod "one" deleted/ },
];

const BUSY = {
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: { name: 'busy' },
  spec: {
    selector: { matchLabels: { app: 'busy' } },
    template: {
      metadata: { labels: { app: 'busy' } },
      spec: {
        containers: [
          {
            name: 'busy',
            image: IMAGE,
            command: ['sh', '-c', 'while :; do for i in $(seq 20000); do :; done; sleep 0.1; done'],
            resources: { requests: { cpu: '20m' } },
          },
        ],
      },
    },
  },
};

/** Rollouts with a past, and one that gets stuck. */
const ROLLOUTS: readonly Step[] = [
  { args: 'apply -f -', input: BUSY, stdout: /deployment\.apps\/busy created/ },
  {
    args: 'autoscale deployment busy --min=1 --max=2 --cpu-percent=50',
    stdout: /horizontalpodautoscaler\.autoscaling\/busy autoscaled/,
  },
  { args: 'rollout status deployment/busy --timeout=40s', stdout: /successfully rolled out/ },
  { args: 'set env deployment/busy MODE=new', stdout: /deployment\.apps\/busy env updated/ },
  { args: 'rollout status deployment/busy --timeout=40s', stdout: /successfully rolled out/ },
  { args: 'rollout history deployment/busy', stdout: /REVISION[\s\S]*^1\s[\s\S]*^2\s/m },
  { args: 'rollout undo deployment/busy', stdout: /deployment\.apps\/busy rolled back/ },
  { args: 'rollout status deployment/busy --timeout=40s', stdout: /successfully rolled out/ },
  { args: 'get deployment busy -o jsonpath={.spec.template.spec.containers[0].env}', stdout: /^$/ },
  { args: 'rollout history deployment/busy', stdout: /REVISION[\s\S]*^2\s[\s\S]*^3\s/m },
  { args: 'rollout restart deployment/busy', stdout: /deployment\.apps\/busy restarted/ },
  { args: 'rollout status deployment/busy --timeout=40s', stdout: /successfully rolled out/ },
  {
    args: 'wait --for=jsonpath={.status.desiredReplicas}=2 hpa/busy --timeout=60s',
    stdout: /condition met/,
  },
  { args: 'get hpa busy', stdout: /cpu: \d+%\/50%\s+1\s+2/ },
  { args: 'delete hpa busy', stdout: /deleted/ },
  {
    args: [
      'patch',
      'deployment',
      'busy',
      '-p',
      '{"spec":{"progressDeadlineSeconds":1,"minReadySeconds":0,"template":{"spec":{"nodeSelector":{"no":"node"}}}}}',
    ],
    stdout: /deployment\.apps\/busy patched/,
  },
  {
    args: 'rollout status deployment/busy --timeout=40s',
    code: 1,
    stderr: /deployment "busy" exceeded its progress deadline/,
  },
  { args: 'delete deployment busy', stdout: /deployment\.apps "busy" deleted/ },
];

export const STEPS: readonly Step[] = [
  ...IMPERATIVE,
  ...SERVER_SIDE,
  ...STREAMS,
  ...ROLLOUTS,
  { embedded: true, args: 'version', stdout: /Server Version: v1\.32/ },
  {
    args: 'api-resources --api-group=sedna.io',
    stdout: /incrementallearningjobs\s+il\s+sedna\.io\/v1alpha1\s+true\s+IncrementalLearningJob/,
  },
  {
    embedded: true,
    args: 'get nodes',
    stdout: /cloud-1\s+Ready\s+cloud[\s\S]*edge-1\s+Ready\s+edge/,
  },
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
  {
    args: 'top pod -l app=web',
    stdout: /NAME\s+CPU\(cores\)\s+MEMORY\(bytes\)\s+web-\S+\s+\d+m\s+[1-9]\d*Mi/,
  },
  { args: 'top node', stdout: /NAME\s+CPU\(cores\)[\s\S]*edge-1\s+\d+m\s+\d+%\s+\d+Mi/ },
  { args: 'logs -l app=web', stdout: /up\nup/, thenForward: true },
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
    embedded: true,
    args: 'wait --for=jsonpath={.status.numberOfSamples}=3 ds/d --timeout=15s',
    stdout: /dataset\.sedna\.io\/d condition met/,
  },
  {
    embedded: true,
    args: 'get ds',
    stdout: /NAME\s+NODE\s+FORMAT\s+SAMPLES\s+READY\s+AGE\nd\s+edge-1\s+txt\s+3\s+Monitored/,
  },
  { embedded: true, args: 'describe ds d', stdout: /Kind:\s+Dataset[\s\S]*Number Of Samples:\s+3/ },
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
