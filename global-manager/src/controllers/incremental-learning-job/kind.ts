import type { IncrementalLearningJob, Model } from '@shoal/api';
import { ShoalError } from '@shoal/core';
import { miningOf, requireOverrides, thresholdOf } from '../../placement/overrides.ts';
import { sharedPart } from '../../placement/status.ts';
import type { ObjectCache } from '../../reconcile/object-cache.ts';
import { requireDataset, requireGrowingDataset, requireModel } from '../references.ts';
import { expectOutputDir, isRemote } from '../stage-job/output-dir.ts';
import { servingDigest } from '../stage-job/serving-pods.ts';
import type { PlacedWorker, StageJobKind } from '../stage-job/stage-job.ts';
import { assignments, type IncrementalReferences } from './assignment.ts';
import { HardExampleLoop, type LoopPorts } from './hard-example-loop.ts';
import { ensureLabeller, type LabellerPorts } from './labeller.ts';
import { createInferencePod, createStagePod } from './workers.ts';

type IncrementalPorts = LabellerPorts &
  LoopPorts & { readonly models: ObjectCache; readonly datasets: ObjectCache };

/** Models that groups begin with instead of the job's, by the group. */
function groupModelsOf(
  { placement, deploySpec }: IncrementalLearningJob['spec'],
  model: (name: string, field: string) => Model,
): Map<string, Model> {
  const groupModels = (placement?.groups ?? []).flatMap(({ name, overrides }, i) => {
    const field = `spec.placement.groups[${i}].overrides.model.name`;
    if (!overrides?.model) return [];
    const found = model(overrides.model.name, field);
    if (isRemote(found.spec.url) && deploySpec.model.hotUpdateEnabled !== true)
      throw new ShoalError(
        'invalid_argument',
        `${field}: Model "${overrides.model.name}" is at ${found.spec.url}, which cannot be replaced; give it a host path, or set hotUpdateEnabled`,
      );
    return [[name, found] as const];
  });
  return new Map(groupModels);
}

/** Everything a job refers to. @throws ShoalError `not_found` or `invalid_argument` naming the field. */
function resolveReferences(
  { metadata, spec }: IncrementalLearningJob,
  { models, datasets }: Pick<IncrementalPorts, 'models' | 'datasets'>,
): IncrementalReferences {
  const { namespace = '' } = metadata;
  expectOutputDir(spec.outputDir, { s3: true });
  const { dataset, initialModel, deploySpec, evalSpec } = spec;
  const model = (name: string, field: string): Model =>
    requireModel(models, namespace, { name, field });
  const found = requireGrowingDataset(datasets, namespace, {
    name: dataset.name,
    field: 'spec.dataset.name',
  });
  if (spec.hardExamples && isRemote(found.spec.url))
    throw new ShoalError(
      'invalid_argument',
      `spec.hardExamples: Dataset "${dataset.name}" is at ${found.spec.url}, where nothing can be appended; give the job a Dataset on a node`,
    );
  const deployModel = model(deploySpec.model.name, 'spec.deploySpec.model.name');
  if (isRemote(deployModel.spec.url) && deploySpec.model.hotUpdateEnabled !== true)
    throw new ShoalError(
      'invalid_argument',
      `spec.deploySpec.model: Model "${deploySpec.model.name}" is at ${deployModel.spec.url}, which cannot be replaced; give it a host path, or set hotUpdateEnabled`,
    );
  if (deploySpec.rollout && deploySpec.model.hotUpdateEnabled !== true)
    throw new ShoalError(
      'invalid_argument',
      'spec.deploySpec.rollout needs spec.deploySpec.model.hotUpdateEnabled: models are swapped inside the workers, node by node',
    );
  if (deploySpec.rollout && /^[a-z0-9+.-]+:\/\//i.test(deployModel.spec.url))
    throw new ShoalError(
      'invalid_argument',
      `spec.deploySpec.rollout: Model "${deploySpec.model.name}" is at ${deployModel.spec.url}, to which nodes could not go back; give it a host path or a blob: address`,
    );
  return {
    dataset: found,
    groupModels: groupModelsOf(spec, model),
    initialModel: model(initialModel.name, 'spec.initialModel.name'),
    deployModel,
    evalModel: evalSpec.initialEvalModel
      ? model(evalSpec.initialEvalModel.name, 'spec.evalSpec.initialEvalModel.name')
      : undefined,
    labelModel: spec.hardExamples?.labels?.model
      ? model(spec.hardExamples.labels.model.name, 'spec.hardExamples.labels.model.name')
      : undefined,
    guardDatasets: (evalSpec.guards ?? []).flatMap((g, i) =>
      g.dataset
        ? [
            requireDataset(datasets, namespace, {
              name: g.dataset.name,
              field: `spec.evalSpec.guards[${i}].dataset.name`,
            }),
          ]
        : [],
    ),
  };
}

/** The model a worker begins with: its group’s, or the job’s. */
function servedModel(
  { deployModel, groupModels }: Pick<IncrementalReferences, 'deployModel' | 'groupModels'>,
  placed: PlacedWorker | undefined,
): Model {
  return (placed && groupModels.get(placed.group.name)) ?? deployModel;
}

/** What incremental learning adds to the stages: models to start from, to serve and to compare with. */
export function incrementalLearning(
  ports: IncrementalPorts,
): StageJobKind<IncrementalLearningJob, IncrementalReferences> {
  const loop = new HardExampleLoop(ports);
  return {
    kind: 'IncrementalLearningJob',
    name: 'incremental-learning-job',
    resolve: (job) => resolveReferences(job, ports),
    hotUpdate: (job) => job.spec.deploySpec.model.hotUpdateEnabled === true,
    // The model is served from the start.
    isServed: () => true,
    createInferencePod: async (job, references, at) =>
      await createInferencePod(job, { ...at, model: servedModel(references, at.placed) }, ports),
    checkPlacement: ({ spec }, { groups }) => {
      requireOverrides(groups, ['model', 'parameters', 'threshold', 'resources', 'env']);
      for (const { overrides } of groups) miningOf(spec.deploySpec.hardExampleMining, overrides);
    },
    resolvedGroup: ({ spec }, { overrides }) => {
      const mining = miningOf(spec.deploySpec.hardExampleMining, overrides);
      const threshold = thresholdOf(mining);
      return {
        model: overrides?.model?.name ?? spec.deploySpec.model.name,
        ...(mining.parameters ? { parameters: mining.parameters } : {}),
        ...(threshold === undefined ? {} : { threshold }),
        ...sharedPart(overrides),
      };
    },
    servingDigest: ({ spec }, references, { group }) =>
      servingDigest({
        overrides: group.overrides ?? null,
        model: (references.groupModels.get(group.name) ?? references.deployModel).spec,
        template: spec.deploySpec.template,
        mining: spec.deploySpec.hardExampleMining,
      }),
    rollout: (job) => job.spec.deploySpec.rollout,
    createStagePod: async (job, { dataset, guardDatasets }, at) => {
      const { url: datasetUrl, nodeName: datasetNode, credentialName } = dataset.spec;
      const guardUrls = guardDatasets.map((d) => d.spec.url);
      const inputs = {
        ...at,
        datasetUrl,
        datasetNode,
        guardUrls,
        datasetCredential: credentialName,
      };
      return await createStagePod(job, inputs, ports);
    },
    pinned: (job) => job.spec.deploySpec.model.pin,
    observe: async (job, { dataset, labelModel }) => {
      await ensureLabeller(job, labelModel, ports);
      return await loop.observe(job, dataset.spec.nodeName);
    },
    watch: (changed) => ports.samples.onChange((j) => changed(j.namespace, j.name)),
    forget: (namespace, name, except) => loop.forget(namespace, name, except),
    assignments,
  };
}
