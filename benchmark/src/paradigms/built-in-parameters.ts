import { messageOf, ShoalError } from '@shoal/core';
import type { ModuleChoice } from '../config/algorithm.ts';
import { suggestion } from '../config/nearest.ts';
import { FIRST_ONLY, JOINT, KNOWLEDGE_BASE, LOCAL, ORACLE, POOLED } from './names.ts';

const MEMORY = ['memory', 'replayed', 'keep'];

/** What ways of lifelong learning can be told. */
const LEARNER_PARAMETERS: Readonly<Record<string, readonly string[]>> = {
  [KNOWLEDGE_BASE]: [],
  [JOINT]: [],
  [FIRST_ONLY]: [],
  'fine-tune': [],
  rehearsal: MEMORY,
  'der++': ['alpha', 'beta', ...MEMORY],
  'a-gem': MEMORY,
  ewc: ['strength', 'decay', 'fisherSamples'],
  lwf: ['weight', 'temperature'],
};

function requireKnown({ name, hyperparameters }: ModuleChoice, known: readonly string[]): void {
  const stranger = Object.keys(hyperparameters).find((key) => !known.includes(key));
  if (stranger !== undefined)
    throw new ShoalError(
      'invalid_argument',
      `${name} has no parameter "${stranger}"${suggestion(stranger, known)}; it has: ${known.join(', ') || 'none'}`,
    );
}

/**
 * Makes what fills a slot by name, to see whether its parameters go: nothing runs for an hour to find
 * that one is misspelt.
 *
 * @returns What is wrong; undefined when nothing is.
 */
export async function parameterFault(module: ModuleChoice): Promise<string | undefined> {
  const { type, name, hyperparameters } = module;
  const { configureMiner, createStrategy } = await import('@shoal/lib');
  const parameters = hyperparameters as Readonly<Record<string, number | string>>;
  try {
    if (name === POOLED || name === LOCAL || name === ORACLE) requireKnown(module, []);
    else if (type === 'learner') requireKnown(module, LEARNER_PARAMETERS[name] ?? []);
    else if (type === 'aggregation') createStrategy(name, parameters);
    // A calibration is a file, which is read when the case runs.
    else if (type === 'hard_example_mining' && parameters['calibration'] === undefined)
      configureMiner(name, parameters);
    return undefined;
  } catch (error) {
    return messageOf(error);
  }
}
