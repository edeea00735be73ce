import { messageOf } from '@shoal/core';
import {
  type Algorithm,
  MODULE_TYPES,
  type ModuleType,
  type ParadigmName,
} from '../config/algorithm.ts';
import type { ConfigNode } from '../config/config-node.ts';
import { suggestion } from '../config/nearest.ts';
import { checkModule } from '../plan/module-file.ts';
import { parameterFault } from './built-in-parameters.ts';
import { FIRST_ONLY, JOINT, KNOWLEDGE_BASE, LOCAL, ORACLE, POOLED } from './names.ts';

interface Slots {
  readonly required: readonly ModuleType[];
  readonly optional: readonly ModuleType[];
}

const TASK_SLOTS = MODULE_TYPES.filter((t) => /^task_|^unseen_|^inference_/.test(t));

const SLOTS: Readonly<Record<ParadigmName, Slots>> = {
  singletasklearning: { required: ['basemodel'], optional: ['dataset_processor'] },
  jointinference: {
    required: ['edgemodel', 'cloudmodel', 'hard_example_mining'],
    optional: ['dataset_processor'],
  },
  incrementallearning: {
    required: ['basemodel', 'hard_example_mining'],
    optional: ['dataset_processor'],
  },
  federatedlearning: { required: ['basemodel', 'aggregation'], optional: ['dataset_processor'] },
  federatedclassincrementallearning: {
    required: ['basemodel', 'aggregation'],
    optional: ['dataset_processor'],
  },
  lifelonglearning: {
    required: ['basemodel'],
    optional: ['learner', 'dataset_processor', ...TASK_SLOTS],
  },
  multiedgeinference: { required: ['basemodel'], optional: ['dataset_processor'] },
};

/** Our slot for Ianvs's type of module. */
export const COMPONENT_SLOTS: {
  readonly task_definition: 'taskDefinition';
  readonly task_relationship_discovery: 'taskRelationDiscovery';
  readonly task_allocation: 'taskAllocation';
  readonly task_remodeling: 'taskRemodeling';
  readonly inference_integrate: 'inferenceIntegrate';
  readonly task_update_decision: 'taskUpdateDecision';
  readonly unseen_task_allocation: 'unseenTaskAllocation';
  readonly unseen_sample_recognition: 'unseenSampleRecognition';
  readonly unseen_task_detection: 'unseenTaskDetection';
} = {
  task_definition: 'taskDefinition',
  task_relationship_discovery: 'taskRelationDiscovery',
  task_allocation: 'taskAllocation',
  task_remodeling: 'taskRemodeling',
  inference_integrate: 'inferenceIntegrate',
  task_update_decision: 'taskUpdateDecision',
  unseen_task_allocation: 'unseenTaskAllocation',
  unseen_sample_recognition: 'unseenSampleRecognition',
  unseen_task_detection: 'unseenTaskDetection',
};

/** What a slot can be filled with without a file. */
async function builtInNames(type: ModuleType): Promise<readonly string[]> {
  const lib = await import('@shoal/lib');
  if (type === 'hard_example_mining') return [...lib.MINER_NAMES, ORACLE];
  if (type === 'aggregation') return [...lib.STRATEGY_NAMES, POOLED, LOCAL];
  if (type === 'learner') return [KNOWLEDGE_BASE, JOINT, FIRST_ONLY, ...lib.CONTINUAL_NAMES];
  return type in COMPONENT_SLOTS
    ? lib.COMPONENT_NAMES[COMPONENT_SLOTS[type as keyof typeof COMPONENT_SLOTS]]
    : [];
}

/**
 * Whether every slot of the paradigm is filled, nothing else is, and every module is there and loads.
 *
 * @returns What is wrong with the code of a module; undefined when all load.
 * @throws ShoalError naming file, line and module.
 */
export async function checkAlgorithm(
  algorithm: Algorithm,
  node: ConfigNode,
): Promise<string | undefined> {
  const { required, optional } = SLOTS[algorithm.paradigm];
  const missing = required.find((type) => !algorithm.modules.some((m) => m.type === type));
  if (missing !== undefined)
    node.fail(`${algorithm.paradigm} needs a module of type ${missing}`, [...node.path, 'modules']);
  let problem: string | undefined;
  for (const [i, module] of algorithm.modules.entries()) {
    const at = node.at('modules').at(i);
    if (![...required, ...optional].includes(module.type))
      at.at('type').fail(
        `${algorithm.paradigm} has no slot ${module.type}; it has ${[...required, ...optional].join(', ')}`,
      );
    if (module.url !== undefined) {
      try {
        await checkModule(module.url, module.name);
      } catch (error) {
        problem ??= `${node.file.path}: ${messageOf(error)}`;
      }
      continue;
    }
    const known = (await builtInNames(module.type)).filter(
      // Alone and class after class is nothing the paradigm knows.
      (n) => n !== LOCAL || algorithm.paradigm === 'federatedlearning',
    );
    if (known.length === 0)
      at.fail(`a ${module.type} is code of yours: give url, the path of a TypeScript file`);
    if (!known.includes(module.name))
      at.at('name').fail(
        `there is no ${module.type} "${module.name}"${suggestion(module.name, known)}; or give url, a file of your own`,
      );
    const fault = await parameterFault(module);
    if (fault !== undefined) at.at('hyperparameters').fail(fault);
  }
  return problem;
}
